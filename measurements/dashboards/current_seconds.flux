// InfluxDB 2: a task that keeps mirrored power traces in 1 s buckets for good, so that the 1 ms ones may expire.
// Make the bucket "lab-years" first; put the names of your bucket and organisation in place of "lab".
option task = {name: "current_seconds", every: 1h, offset: 5m}

buckets = from(bucket: "lab") |> range(start: -1d) |> filter(fn: (r) => r._measurement == "current")

rolled = (field, fn) =>
    buckets
        |> filter(fn: (r) => r._field == field)
        |> aggregateWindow(every: 1s, fn: fn, createEmpty: false, timeSrc: "_start")
        |> to(bucket: "lab-years")

rolled(field: "min", fn: min)
rolled(field: "max", fn: max)
rolled(field: "mean", fn: mean)
rolled(field: "energy", fn: sum)
