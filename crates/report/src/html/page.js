// What the figures say, from the knee to the manifest.

const data = JSON.parse(document.getElementById("data").textContent);
const page = document.getElementById("page");
const many = (all, one, more) => number(all, 0) + " " + (all === 1 ? one : more);
const money = (value, currency) => value === null || value === undefined ? "–" : number(value * 1000, value * 1000 < 10 ? 3 : 1) + (currency ? " " + currency : "");
const seconds = (it) => it === null || it === undefined ? null : (it.secs + it.nanos / 1e9) * 1000;

function section(title, text) {
  page.append(element("h2", {}, title));
  if (text) page.append(element("p", {}, text));
}

function charts() {
  const box = element("div", { class: "charts" });
  page.append(box);
  return box;
}

function cards(all) {
  page.append(element("div", { class: "cards" }, ...all.filter(Boolean).map(([value, name, note]) =>
    element("div", { class: "card" }, element("span", {}, name), element("b", {}, value), note ? element("small", {}, note) : null))));
}

function promise(slo) {
  const names = [["ttft", "TTFT"], ["tpot", "TPOT"], ["itl_p95", "ITL p95"], ["jitter", "jitter"], ["e2e", "E2E"], ["completion", "done"]];
  const told = names.filter(([key]) => slo && slo[key]).map(([key, name]) => name + " ≤ " + millis(seconds(slo[key])));
  return told.length ? told.join(", ") : "any whole answer";
}

const estimate = (it, unit) => number(it.value) + unit;
const between = (it) => it.low === null ? "no interval" : "95 %: " + number(it.low) + " to " + number(it.high);
const none = { "too-few-points": "fewer than five rates", "no-rise": "no rise at the lowest rates", "still-rising": "still rising at the highest rate", "no-bend": "bends too little", "below-peak": "bends far below its peak" };

function head() {
  page.append(element("h1", {}, data.title));
  const caveats = [...data.runs.flatMap((it) => [...(it.stopped ? ["THE RUN WAS STOPPED BEFORE ITS END"] : []), ...(it.doubts || [])].map((told) => (data.runs.length > 1 ? it.workload + ", " + it.policy + ", seed " + it.seed + ": " : "") + told)), ...data.frontiers.flatMap((it) => it.doubts || [])];
  if (caveats.length) page.append(element("div", { class: "caveats", role: "alert" }, ...caveats.map((it) => element("p", {}, it))));
  const slo = data.slo || (data.frontiers[0] && data.frontiers[0].slo);
  page.append(element("p", {}, "Good: succeeded within " + promise(slo) + "; refusals and failures count against it. Latencies count from the scheduled send."));
  const first = data.frontiers[0], run = data.runs[0];
  if (first) {
    for (const it of data.frontiers) {
      const knee = it.knee_by_goodput, pushed = it.knee_by_throughput, warm = state(it, "warm"), hurt = state(it, "disrupted");
      if (data.frontiers.length > 1) page.append(element("h3", {}, it.policy));
      cards([
        [knee.rate_per_s ? estimate(knee.rate_per_s, "/s") : "none", "knee by goodput", knee.rate_per_s ? between(knee.rate_per_s) : none[knee.none]],
        [pushed.rate_per_s ? estimate(pushed.rate_per_s, "/s") : "none", "knee by throughput", pushed.rate_per_s ? between(pushed.rate_per_s) : none[pushed.none]],
        it.collapse_ratio ? [percent(it.collapse_ratio.value), "goodput left at 1.5 × knee", "of that at the knee"] : null,
        warm && hurt ? [percent(hurt.good_request_fraction), "good while disrupted", "undisturbed: " + percent(warm.good_request_fraction)] : null,
        [it.warmth.replaceAll("-", " "), "caches", it.warmth_produced],
      ]);
    }
  } else if (run && data.runs.length === 1) {
    cards([
      [number(run.request_goodput) + "/s", "goodput", "of " + number(run.offered_rps) + "/s offered"],
      [percent(run.good_request_fraction), "good requests", many(run.good, "request", "requests") + " of " + number(run.requests, 0)],
      [number(run.output_token_goodput) + "/s", "good output tokens", "of " + number(run.output_token_throughput) + "/s"],
      run.good_session_fraction === null ? null : [percent(run.good_session_fraction), "good sessions", run.unfinished_sessions ? many(run.unfinished_sessions, "was", "were") + " not whole" : undefined],
      run.ttft_ms ? [millis(run.ttft_ms.p99), "TTFT p99", "median " + millis(run.ttft_ms.p50)] : null,
      run.tpot_ms ? [millis(run.tpot_ms.p99), "TPOT p99", "median " + millis(run.tpot_ms.p50)] : null,
      run.cache_hit_rate === null ? null : [percent(run.cache_hit_rate), "cache hit rate"],
      run.cost_per_accepted === null ? null : [money(run.cost_per_accepted, run.currency), "per 1,000 accepted"],
      run.generator_lag_ms ? [millis(run.generator_lag_ms.p99), "generator lag p99", "how late requests were sent"] : null,
    ]);
  }
}

function state(frontier, warmth) {
  const found = (frontier.states || []).find((it) => it.warmth === warmth);
  return found && found.point;
}

// Curves of several policies on one axis need one list of rates; where a policy has none, its line goes on.
function byRate(of) {
  const rates = [...new Set(data.frontiers.flatMap((it) => it.points.map((point) => point.rate_per_s)))].sort((a, b) => a - b);
  const at = (frontier) => new Map(frontier.points.map((it) => [it.rate_per_s, it]));
  const series = data.frontiers.flatMap((frontier, place) => {
    const points = at(frontier);
    return of(frontier, place).map((it) => ({ ...it, values: rates.map((rate) => points.has(rate) ? it.value(points.get(rate)) : null) }));
  });
  return { x: rates, series };
}

function frontiers() {
  if (!data.frontiers.length) return;
  section("The frontier", "Each rate was measured by runs of their own. Left of the knee more load brings more good answers; right of it the fleet still answers, and too late.");
  const single = data.frontiers.length === 1, box = charts();
  const name = (it, what) => single ? what : it.policy + " " + what;
  const knees = data.frontiers.flatMap((it, place) => {
    const own = "c" + (single ? 0 : place % 7), both = [];
    if (it.knee_by_goodput.rate_per_s) both.push({ x: it.knee_by_goodput.rate_per_s.value, label: name(it, "knee by goodput"), colour: own });
    if (it.knee_by_throughput.rate_per_s && single) both.push({ x: it.knee_by_throughput.rate_per_s.value, label: "knee by throughput", colour: "c1" });
    return both;
  });
  const rates = byRate((it, place) => [
    { label: name(it, "goodput"), value: (point) => point.request_goodput, colour: "c" + (single ? 0 : place % 7) },
    { label: name(it, "throughput"), value: (point) => point.sustained_rps, colour: "c" + (single ? 1 : place % 7), dash: [6, 4] },
  ]);
  rates.series.push({ label: "all that is offered", values: rates.x, colour: "c6", dash: [2, 4] });
  chart(box, { ...rates, title: "Good and answered requests per second", xLabel: "offered, requests/s", yLabel: "requests/s", xName: "offered", points: true, lines: knees, wide: true, height: 320 });
  for (const [key, title] of [["ttft", "Time to first token"], ["tpot", "Time per output token"], ["e2e", "Time to the last token"]]) {
    const percentiles = single ? ["p50", "p95", "p99"] : ["p50", "p99"];
    const latency = byRate((it, place) => percentiles.map((part, shade) => ({
      label: name(it, part), value: (point) => point[key + "_ms"] && point[key + "_ms"][part],
      colour: "c" + (single ? shade : place % 7), dash: single ? undefined : [undefined, [6, 4]][shade],
    })));
    if (!latency.series.some((it) => it.values.some((value) => value > 0))) continue;
    const bound = seconds(data.frontiers[0].slo[key]);
    const lines = [...knees.filter((it) => it.label.endsWith("goodput")), ...(bound ? [{ y: bound, label: "SLO " + millis(bound), colour: "c4" }] : [])];
    chart(box, { ...latency, title: title + ", ms", xLabel: "offered, requests/s", xName: "offered", log: true, points: true, format: millis, lines });
  }
  if (data.frontiers.some((it) => it.points.some((point) => point.cost_per_accepted !== null))) {
    const cost = byRate((it, place) => [{ label: name(it, "cost"), value: (point) => point.cost_per_accepted === null ? null : point.cost_per_accepted * 1000, colour: "c" + (single ? 2 : place % 7) }]);
    chart(box, { ...cost, title: "Cost of 1,000 accepted answers" + (data.frontiers[0].currency ? ", " + data.frontiers[0].currency : ""), xLabel: "offered, requests/s", xName: "offered", log: true, points: true, lines: knees.filter((it) => it.label.endsWith("goodput")) });
  }
  for (const it of data.frontiers.filter((it) => it.points.some((point) => (point.by_slo_class || []).length))) {
    const x = it.points.map((point) => point.rate_per_s), names = [...new Set(it.points.flatMap((point) => point.by_slo_class.map((one) => one.name)))];
    const of = (name) => it.points.map((point) => { const one = point.by_slo_class.find((one) => one.name === name); return one ? one.good_request_fraction : null; });
    chart(box, { x, title: "Good requests by SLO class" + (single ? "" : ", " + it.policy), xLabel: "offered, requests/s", xName: "offered", most: 1.02, points: true, format: percent, series: names.map((name) => ({ label: name || "(none)", values: of(name) })) });
  }
  for (const it of data.frontiers) points(it, single);
}

function points(frontier, single) {
  page.append(element("h3", { style: "margin-top:18px" }, (single ? "" : frontier.policy + ": ") + "every rate; " + frontier.points[0].runs + " runs each"));
  const share = (value) => value > 0 ? percent(value) : "–";
  figures(page, ["offered/s", "load", "answered/s", "goodput/s", "good", "good tokens/s", "failed", "refused", "retried", "hits", "TTFT p50", "p95", "p99", "TPOT p50", "p95", "p99", "E2E p99", "cost / 1,000"],
    frontier.points.map((it) => ({ mark: it.is_at_knee, cells: [number(it.rate_per_s), it.band, number(it.sustained_rps), number(it.request_goodput), percent(it.good_request_fraction), number(it.output_token_goodput), share(it.error_rate), share(it.refusal_rate), share(it.retry_rate), percent(it.cache_hit_rate),
      ...["p50", "p95", "p99"].map((part) => millis(it.ttft_ms && it.ttft_ms[part])), ...["p50", "p95", "p99"].map((part) => millis(it.tpot_ms && it.tpot_ms[part])), millis(it.e2e_ms && it.e2e_ms.p99), money(it.cost_per_accepted, frontier.currency)] })));
}

function states() {
  for (const it of data.frontiers.filter((it) => (it.states || []).length)) {
    section("Caches: warm, cold and disrupted" + (data.frontiers.length > 1 ? " (" + it.policy + ")" : ""), "The same " + number(it.states[0].point.rate_per_s) + " requests a second on fleets whose caches hold more or less when counting begins.");
    figures(page, ["caches", "hits", "TTFT p50", "TTFT p99", "goodput/s", "good", "cost / 1,000"], it.states.map(({ warmth, point }) =>
      [warmth.replaceAll("-", " "), percent(point.cache_hit_rate), millis(point.ttft_ms && point.ttft_ms.p50), millis(point.ttft_ms && point.ttft_ms.p99), number(point.request_goodput), percent(point.good_request_fraction), money(point.cost_per_accepted, it.currency)]));
    const split = it.disruption;
    if (!split) continue;
    const open = split.disruptions.filter((one) => one.recovered === false).length;
    const kinds = [...new Set(split.disruptions.map((one) => one.kind))].join(", ");
    page.append(element("p", { style: "margin-top:12px" }, kinds + ": " + (open ? "caches and TTFT were not as before within " + number(split.window_mean_s, 0) + " s, in " + open + " of " + split.disruptions.length + " times; the run ended before, so it is worse than this." : number(split.window_mean_s, 0) + " s until caches and TTFT are as before.")));
    const row = (name, part) => [name, number(part.length_s, 0) + " s", percent(part.cache_hit_rate), millis(part.ttft_ms && part.ttft_ms.mean), percent(part.good_request_fraction), money(part.cost_per_accepted, it.currency)];
    const rows = [row("while disrupted", split.inside), row("undisturbed", split.outside)];
    if (!it.blend && split.window_mean_s > 0) page.append(element("p", {}, "Nothing is blended: a day has room for " + number(86400 / split.window_mean_s, 0) + " of them."));
    if (it.blend) rows.push([it.blend.per_day + " such a day", percent(it.blend.share_of_time) + " of it", percent(it.blend.cache_hit_rate), millis(it.blend.ttft_ms_mean), percent(it.blend.good_request_fraction), money(it.blend.cost_per_accepted, it.currency)]);
    figures(page, ["", "time", "hits", "TTFT mean", "good", "cost / 1,000"], rows);
  }
}

const figureNames = { request_goodput: ["goodput", (it) => number(it) + "/s"], ttft_ms_mean: ["TTFT mean", millis], ttft_ms_p99: ["TTFT p99", millis], tpot_ms_mean: ["TPOT mean", millis], cache_hit_rate: ["hit rate", percent] };

function interval(it) {
  if (!it.difference) return "–";
  const { low, mean, high } = it.difference, most = Math.max(Math.abs(low), Math.abs(high)) || 1;
  const x = (value) => 70 + value / most * 62;
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "interval"); svg.setAttribute("width", "140"); svg.setAttribute("height", "16"); svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", "from " + low + " to " + high);
  const line = (x1, x2, y1, y2, stroke, width) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", "line");
    for (const [name, value] of Object.entries({ x1, x2, y1, y2, style: "stroke:var(--" + stroke + ");stroke-width:" + width })) made.setAttribute(name, value);
    svg.append(made);
  };
  line(70, 70, 0, 16, "line", 1);
  const own = it.verdict === "better" ? "c2" : it.verdict === "worse" ? "c1" : "c6";
  line(x(low), x(high), 8, 8, own, 3);
  line(x(mean), x(mean), 3, 13, own, 3);
  return svg;
}

function comparison() {
  if (!data.differences.length) return;
  const first = data.differences[0];
  section("Policies compared", "Differences from " + first.baseline + ", paired by seed, with 95 % intervals by the bootstrap; an interval that holds zero is no difference that these runs can tell.");
  figures(page, ["workload", "policy", "figure", first.baseline, "difference", "interval", "", "verdict"], data.differences.map((it) => {
    const [name, format] = figureNames[it.figure] || [it.figure, number];
    // A share differs by percentage points, not by percent.
    const apart = it.figure === "cache_hit_rate" ? (value) => number(value * 100, 1) + " pp" : format;
    const sign = (value) => (value < 0 ? "−" : "+") + apart(Math.abs(value));
    const verdict = element("span", { class: "verdict-" + it.verdict }, (it.verdict === "better" ? "▲ " : it.verdict === "worse" ? "▼ " : "") + it.verdict.replaceAll("-", " "));
    return [it.workload, it.policy, name, it.baseline_mean === null ? "–" : format(it.baseline_mean), it.difference ? sign(it.difference.mean) : "–", it.difference ? sign(it.difference.low) + " to " + sign(it.difference.high) : "–", interval(it), verdict];
  }));
}

function runs() {
  if (!data.runs.length) return;
  section("Runs", data.runs.length > 1 ? "Each policy and seed by itself." : "");
  const parts = (run, key) => ["p50", "p99"].map((part) => millis(run[key] && run[key][part]));
  figures(page, ["policy", "workload", "seed", "requests", "failed", "refused", "goodput/s", "good", "good sessions", "hits", "TTFT p50", "p99", "TPOT p50", "p99", "busiest / mean", "cost / 1,000"], data.runs.map((run) =>
    [run.policy, run.workload, String(run.seed), number(run.requests, 0), number(run.failed, 0), number(run.rejected, 0), number(run.request_goodput), percent(run.good_request_fraction), percent(run.good_session_fraction), percent(run.cache_hit_rate), ...parts(run, "ttft_ms"), ...parts(run, "tpot_ms"), number(run.imbalance, 2), money(run.cost_per_accepted, run.currency)]));
  const work = data.runs.flatMap((run) => (run.by_workload_class || []).map((it) => ({ run, it })));
  if (work.length) {
    page.append(element("h3", { style: "margin-top:18px" }, "Cost of accepted results by class of work"));
    const units = { conversational: "conversations", agentic: "tasks", rag: "answers", extraction: "records", voice: "minutes", batch: "rows" };
    figures(page, ["class", "policy", "seed", "requests", "accepted", "cost", "each"], work.map(({ run, it }) =>
      [it.class, run.policy, String(run.seed), number(it.requests, 0), number(it.accepted) + " " + units[it.class], it.cost === null ? "–" : number(it.cost, 4), it.cost_per_accepted === null ? "–" : number(it.cost_per_accepted, 6) + " " + (run.currency || "")]));
  }
  const classes = data.runs.flatMap((run) => (run.by_slo_class || []).map((it) => ({ run, it })));
  if (classes.length) {
    page.append(element("h3", { style: "margin-top:18px" }, "By SLO class"));
    figures(page, ["class", "policy", "seed", "requests", "goodput/s", "good", "accepted rows", "TTFT p99", "E2E p99"], classes.map(({ run, it }) =>
      [it.name || "(none)", run.policy, String(run.seed), number(it.requests, 0), number(it.request_goodput), percent(it.good_request_fraction), percent(it.accepted_row_rate), millis(it.ttft_ms && it.ttft_ms.p99), millis(it.e2e_ms && it.e2e_ms.p99)]));
  }
}

function plan() {
  const it = data.plan;
  if (!it) return;
  section("Capacity", number(it.demand.rate_per_s) + " useful requests a second need " + many(it.replicas, "replica", "replicas") + ".");
  const knee = it.per_replica.goodput_per_s, load = (replicas) => percent(it.demand.rate_per_s / knee / replicas) + " of its knee";
  const rows = [];
  if (it.by_throughput !== null) rows.push(["throughput" + (it.by_throughput < it.by_goodput ? " (wrong)" : ", which buys no fewer here"), number(it.per_replica.throughput_per_s) + "/s answered", number(it.by_throughput, 0), it.goodput_by_throughput === null ? load(it.by_throughput) : number(it.goodput_by_throughput) + " good/s"]);
  rows.push(["goodput", number(knee) + "/s good", number(it.by_goodput, 0), load(it.by_goodput)], ["and bursts of " + it.demand.burst + " ×", "", number(it.with_bursts, 0), load(it.with_bursts)], { mark: true, cells: ["and " + it.demand.failures + " failed", "", number(it.replicas, 0), load(it.replicas)] });
  figures(page, ["sized by", "a replica gives", "replicas", "each runs at"], rows);
  const tried = it.trials;
  if (!tried) return;
  page.append(element("p", { style: "margin-top:12px" }, "Tried in virtual time at " + number(tried.rate_per_s) + "/s with " + many(tried.lost, "replica", "replicas") + " lost when counting began; " + percent(tried.good_fraction_needed) + " good requests are needed, the share at the knee."));
  figures(page, ["replicas", "good", ""], tried.trials.map((one) => ({ mark: one.holds, cells: [number(one.replicas, 0), percent(one.good_request_fraction), one.holds ? "enough" : "too few"] })));
}

function details() {
  if (!data.details.length) return;
  section("Latencies and time", "Shares of requests answered within a time, and runs second by second; shaded is the time from a disruption until caches and TTFT were as before.");
  const overlay = charts(), shown = data.details.slice(0, 7), slo = data.slo || (data.frontiers[0] || {}).slo || {};
  for (const [key, title] of [["ttft", "TTFT"], ["tpot", "TPOT"], ["e2e", "E2E"]]) {
    const all = shown.filter((it) => it[key + "_ms"].length && it[key + "_ms"][it[key + "_ms"].length - 1] > 0);
    if (!all.length) continue;
    const x = [...new Set(all.flatMap((it) => it[key + "_ms"]))].filter((it) => it > 0).sort((a, b) => a - b);
    // Where a curve has no quantile of its own, the share lies on the line between its neighbours.
    const share = (it, value) => {
      const values = it[key + "_ms"], after = values.findIndex((one) => one >= value);
      if (after < 0) return 1;
      if (after === 0) return values[0] === value ? it.shares[0] : null;
      const part = (value - values[after - 1]) / (values[after] - values[after - 1] || 1);
      return it.shares[after - 1] + part * (it.shares[after] - it.shares[after - 1]);
    };
    const bound = seconds(slo[key]), low = Math.max(x[0], x[x.length - 1] / 1e5);
    const logs = x.filter((it) => it >= low).map(Math.log10);
    chart(overlay, { title: "Share of requests with " + title + " within …", x: logs, xLabel: title + ", ms", xName: title, xFormat: (it) => it === null ? "–" : millis(Math.pow(10, it)), most: 1.02, format: percent,
      xSplits: (plot, axis, from, until) => { const all = []; for (let decade = Math.floor(from); decade <= until; decade++) for (const digit of [1, 2, 5]) { const at = decade + Math.log10(digit); if (at >= from && at <= until) all.push(at); } return all; },
      xValues: (plot, splits) => splits.map((it) => splits.length > 9 && Math.abs(it - Math.round(it)) > 1e-6 ? "" : tick(Math.pow(10, it))),
      series: all.map((it) => ({ label: it.name, values: logs.map((at) => share(it, Math.pow(10, at))) })), lines: bound ? [{ x: Math.log10(bound), label: "SLO " + millis(bound), colour: "c4" }] : [] });
  }
  const choice = element("select", { "aria-label": "run" }, ...data.details.map((it, place) => element("option", { value: String(place) }, it.name)));
  const disrupted = data.details.findIndex((it) => it.disruptions.length);
  choice.value = String(Math.max(0, disrupted));
  page.append(element("h3", { style: "margin-top:20px" }, "One run"), choice);
  const box = element("div", { class: "charts", style: "margin-top:10px" });
  page.append(box);
  const show = () => {
    box.replaceChildren();
    const it = data.details[+choice.value], x = it.slices.map((slice) => slice.at), of = (key) => it.slices.map((slice) => slice[key]);
    const time = { x, xLabel: "time, s", xName: "time", xFormat: (value) => number(value, 0) + " s", spans: it.disruptions };
    chart(box, { ...time, title: "Requests per second" + (it.slice_s > 1 ? ", by " + it.slice_s + " s" : ""), wide: true, series: [
      { label: "offered", values: of("offered"), colour: "c6", dash: [2, 3] }, { label: "answered", values: of("completed"), colour: "c1" }, { label: "good", values: of("good"), colour: "c0" }, { label: "refused or failed", values: of("lost"), colour: "c3" }],
      lines: it.disruptions.slice(0, 12).map((one) => ({ x: one.from, label: one.kind, colour: "c4" })) });
    chart(box, { ...time, title: "TTFT, ms", log: true, format: millis, series: [{ label: "p50", values: of("ttft_p50"), colour: "c0" }, { label: "p99", values: of("ttft_p99"), colour: "c1" }], lines: slo.ttft ? [{ y: seconds(slo.ttft), label: "SLO", colour: "c4" }] : [] });
    if (it.slices.some((slice) => slice.hits !== null)) chart(box, { ...time, title: "Cache hit rate", most: 1, format: percent, series: [{ label: "hits", values: of("hits"), colour: "c2" }] });
    chart(box, { ...time, title: "Requests in flight", series: [{ label: "in flight", values: of("in_flight"), colour: "c4" }] });
    if (it.replicas.length > 1) balance(box, it);
    redraw(false);
  };
  choice.addEventListener("change", show);
  show();
}

function balance(box, it) {
  const names = it.replicas.map((one) => one.name), x = names.map((_, place) => place);
  const mean = it.replicas.reduce((sum, one) => sum + one.completed, 0) / names.length;
  chart(box, { title: "Balance: answers of each replica", x, xLabel: "replica", xName: "replica", xFormat: (value) => value === null ? "–" : names[value] || "", xRange: [-0.6, names.length - 0.4],
    xSplits: () => x, xValues: (plot, splits) => splits.map((place) => names.length > 10 ? String(place) : (names[place] || "").replace(/^replica-/, "")),
    series: [{ label: "answers", values: it.replicas.map((one) => one.completed), colour: "c5", bars: 0 }], lines: [{ y: mean, label: "mean", colour: "c1" }] });
}

function manifest() {
  if (!data.manifest) return;
  section("Manifest");
  page.append(element("details", {}, element("summary", {}, "What was run, on what, and when"), element("pre", {}, JSON.stringify(data.manifest, null, 2))));
}

page.replaceChildren();
head();
plan();
frontiers();
states();
comparison();
runs();
details();
manifest();
// A chart that was drawn while it stood alone in its row has less room since another came.
redraw(false);
