// InfluxDB 2: a task that keeps one median a day and series for good, in the bucket "lab-years".
// Make that bucket first; put the names of your bucket and organisation in place of "lab".
option task = {name: "nightly_median", every: 1h, offset: 5m}

runs =
    from(bucket: "lab")
        |> range(start: -2d)
        |> filter(
            fn: (r) => r._measurement =~ /^(latency|cycles|instructions|energy|peak_ram|flash|accuracy)$/ and r._field == "median",
        )

runs
    |> aggregateWindow(every: 1d, fn: median, createEmpty: false, timeSrc: "_start")
    |> to(bucket: "lab-years")

runs
    |> aggregateWindow(every: 1d, fn: count, createEmpty: false, timeSrc: "_start")
    |> toFloat()
    |> set(key: "_field", value: "runs")
    |> to(bucket: "lab-years")
