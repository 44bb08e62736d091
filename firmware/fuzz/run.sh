#!/bin/sh
# Builds and runs the fuzz targets: run.sh <target: frames|session|mlperf> <seconds, or runs as -runs=N> [build folder]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
target=$1
case $2 in
    -runs=*) limit=$2 ;;
    *) limit=-max_total_time=$2 ;;
esac
build=${3:-${TMPDIR:-/tmp}/lab-fuzz}
mkdir -p "$build/corpus-$target" "$build/findings"

runner="$here/../runner"
case $target in
    frames) sources="$here/fuzz_frames.c $runner/wire.c $runner/cbor.c $runner/crc32.c" ;;
    session) sources="$here/fuzz_session.c $runner/wire.c $runner/cbor.c $runner/crc32.c $runner/session.c
                      $runner/blob.c $runner/jobs.c $runner/job_infer.c $runner/job_train.c $runner/job_adapt.c $runner/job_switch.c $runner/detector.c
                      $runner/job_filter.c $runner/entropy_filter.c
                      $runner/job_variables.c $runner/training.c $runner/message.c $runner/memory.c
                      $runner/build_id.c $runner/region.c $here/../runtime/lab_training.c" ;;
    mlperf) mlperf="$here/../mlperf"
            sources="$here/fuzz_mlperf.c $mlperf/dut.c $mlperf/benchmark.c $mlperf/text.c
                     $mlperf/timestamp_performance.c $runner/memory.c $runner/build_id.c $here/../runtime/lab_training.c" ;;
    *) echo "no fuzz target '$target': frames, session, mlperf" >&2; exit 2 ;;
esac
# shellcheck disable=SC2086 # a list of files
clang -std=c99 -g -O1 -Wall -Wextra -Werror -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all \
    -DLAB_MLPERF_MODEL=ad01 -I "$runner" -I "$here/../runtime" \
    -I "$here/../mlperf" -I "$here/model" $sources -lm -o "$build/fuzz-$target"
# A corpus folder of its own keeps the seeds as they are.
exec "$build/fuzz-$target" "$limit" -max_len=4096 -timeout=20 -artifact_prefix="$build/findings/" \
    "$build/corpus-$target" "$here/seeds/$target"
