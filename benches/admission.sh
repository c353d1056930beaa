#!/bin/sh
# What each way to let requests in serves of the five workloads, in virtual time: the knee without
# admission, then every mode at 1.4 times the knee, and `off` and `knee` at 2 and 3 times; the textbook's
# server; and the number of `static` found by hand.
#
#   cargo build --release -p sluice
#   benches/admission.sh            # 60 s of each workload, one seed
#   benches/admission.sh 240 5      # longer, over five seeds
#
# Goodput is what the tables end with. TTFT and TPOT are those of the requests that were let in.
set -eu
seconds=${1:-60}
seeds=${2:-1}
warm=$((seconds / 3))
cd "$(dirname "$0")/.."
sluice=target/release/sluice
scratch=$(mktemp -d)
trap 'rm -r "$scratch"' EXIT

# The workload as it is, but shorter, with the lines of $2 added.
scenario() {
    sed -E "s/duration: [0-9]+s, warm_up: [0-9]+s/duration: ${seconds}s, warm_up: ${warm}s/" \
        "config/scenarios/$1.yaml" >"$scratch/$1.yaml"
    printf '%s\n' "$2" >>"$scratch/$1.yaml"
}

run() {
    "$sluice" simulate -s "$scratch/$1.yaml" --policy least-latency --admission "$2" --rate "$3" \
        --seeds "$seeds" --no-limits --jobs 1 --out "$scratch/out" >"$scratch/table"
    # One run is printed otherwise; the summary has what is wanted of either.
    awk -F, -v columns='workload policy admission offered_rps request_goodput good_request_fraction rejected requests' '
        NR == 1 { n = split(columns, want, " "); for (i = 1; i <= NF; i++) at[$i] = i; next }
        { for (i = 1; i <= n; i++) printf "%s%s", $(at[want[i]]), i < n ? "\t" : "\n" }' \
        "$scratch/out/summary.csv"
    rm -r "$scratch/out"
}

printf 'workload\tpolicy\tadmission\toffered/s\tgood/s\tgood share\trefused\trequests\n'
while read -r name knee by14 by2 by3; do
    scenario "$name" ""
    run "$name" off,knee "$knee"
    run "$name" off,ttft-only,instant-tpot,fixed-margins,knee,size-blind,gradient,vegas,aimd "$by14"
    run "$name" off,knee "$by2,$by3"
    for most in 16 32 64; do
        scenario "$name" "admission: { mode: static, in_flight_max: $most }"
        printf 'in_flight_max %s: ' "$most"
        run "$name" static "$by14"
    done
done <<END
chat 108 151 216 324
mixed 74 104 148 222
hot-documents 94 132 188 282
no-sharing 104 146 208 312
agent 15 21 30 45
END

cp config/scenarios/textbook-queue.yaml "$scratch/textbook-queue.yaml"
"$sluice" simulate -s "$scratch/textbook-queue.yaml" --admission off,knee,gradient,vegas,aimd \
    --rate 450,480,560,1000 --seeds 8 --no-limits --jobs 1
for most in 40 60 70 80; do
    { cat config/scenarios/textbook-queue.yaml; echo "admission: { mode: static, in_flight_max: $most }"; } \
        >"$scratch/textbook-queue.yaml"
    echo "in_flight_max $most:"
    "$sluice" simulate -s "$scratch/textbook-queue.yaml" --rate 560,1000 --seeds 8 --no-limits --jobs 1
done
