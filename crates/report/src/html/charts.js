"use strict";
// Charts and tables out of numbers; what they mean is the page's business.

const drawn = [];

/** The colour called `name` in the scheme in force. */
function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
}

/** A new element with attributes and children; children that are text stay text. */
function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
  made.append(...children.filter((it) => it !== null && it !== undefined));
  return made;
}

/** A number with three digits or so, grouped by thousands. */
function number(value, digits) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  const places = digits !== undefined ? digits : size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : size === 0 ? 0 : 3;
  return value.toLocaleString("en-US", { minimumFractionDigits: places, maximumFractionDigits: places });
}

/** Milliseconds, in seconds from ten of them on. */
function millis(value) {
  if (value === null || value === undefined) return "–";
  return value >= 10000 ? number(value / 1000, 1) + " s" : number(value) + " ms";
}

function percent(value) {
  return value === null || value === undefined ? "–" : number(value * 100, 1) + " %";
}

/** Axis labels that stay short: 12k, 3.5M. */
function tick(value) {
  if (value === null) return "";
  const size = Math.abs(value);
  const cut = (by, unit) => String(+(value / by).toPrecision(3)) + unit;
  return size >= 1e6 ? cut(1e6, "M") : size >= 1e4 ? cut(1e3, "k") : String(+value.toPrecision(4));
}

/** Vertical and horizontal lines, and shaded spans, behind and over the curves. */
function marks(chart) {
  return {
    drawClear: [(plot) => {
      for (const span of chart.spans || []) {
        const from = plot.valToPos(span.from, "x", true), until = plot.valToPos(span.until, "x", true);
        plot.ctx.fillStyle = colour("shade");
        plot.ctx.fillRect(from, plot.bbox.top, Math.max(2, until - from), plot.bbox.height);
      }
    }],
    draw: [(plot) => {
      const { ctx, bbox } = plot, ratio = devicePixelRatio || 1;
      ctx.save();
      ctx.font = 11 * ratio + "px system-ui, sans-serif";
      ctx.textAlign = "left";
      ctx.textBaseline = "alphabetic";
      ctx.lineWidth = 1.25 * ratio;
      ctx.beginPath(); ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height); ctx.clip();
      let row = 0;
      const texts = [];
      for (const line of chart.lines || []) {
        const scale = line.x !== undefined ? "x" : "y", value = line.x !== undefined ? line.x : line.y;
        const range = plot.scales[scale];
        if (value < range.min || value > range.max) continue;
        const at = plot.valToPos(value, scale, true);
        ctx.strokeStyle = colour(line.colour || "c6");
        ctx.setLineDash([6 * ratio, 4 * ratio]);
        ctx.beginPath();
        if (scale === "x") { ctx.moveTo(at, bbox.top); ctx.lineTo(at, bbox.top + bbox.height); }
        else { ctx.moveTo(bbox.left, at); ctx.lineTo(bbox.left + bbox.width, at); }
        ctx.stroke();
        texts.push([line, at, scale]);
      }
      // Over all lines and curves, on a ground of their own, so that none runs through a word.
      for (const [line, at, scale] of texts) {
        const width = ctx.measureText(line.label).width;
        const fits = at + width + 6 * ratio < bbox.left + bbox.width;
        const x = scale === "y" ? bbox.left + bbox.width - width - 6 * ratio : fits ? at + 4 * ratio : at - width - 4 * ratio;
        const y = scale === "y" ? at - 5 * ratio : bbox.top + (14 + 15 * (row++ % 6)) * ratio;
        ctx.globalAlpha = 0.85;
        ctx.fillStyle = colour("panel");
        ctx.fillRect(x - 2 * ratio, y - 10 * ratio, width + 4 * ratio, 13 * ratio);
        ctx.globalAlpha = 1;
        ctx.fillStyle = colour(line.colour || "c6");
        ctx.fillText(line.label, x, y);
      }
      ctx.restore();
    }],
  };
}

/** Of a logarithmic axis, 1, 2 and 5 of each decade have room for lines and labels; of many decades, 1. */
function round(value, digits) {
  return digits.includes(Math.round(value / Math.pow(10, Math.floor(Math.log10(value) + 1e-9))));
}

function axis(label, log, format) {
  const digits = (splits) => { const all = splits.filter((it) => it > 0); return Math.max(...all) / Math.min(...all) > 1500 ? [1] : [1, 2, 5]; };
  const filter = (plot, splits) => log ? splits.map((it) => it !== null && round(it, digits(splits)) ? it : null) : splits;
  const shown = format === percent ? (it) => tick(it * 100) + " %" : tick;
  return {
    filter, stroke: () => colour("soft"), grid: { stroke: () => colour("line"), width: 1, filter },
    ticks: { stroke: () => colour("line"), width: 1, filter }, font: "11px system-ui, sans-serif",
    label, labelFont: "12px system-ui, sans-serif", labelSize: 18, size: log === undefined ? 30 : 52,
    values: (plot, splits) => splits.map((it) => it === null ? "" : shown(it)),
  };
}

/**
 * A chart: { title, x, xLabel, yLabel, log, series: [{ label, values, colour, dash, bars, format }], lines, spans }.
 */
function chart(into, spec) {
  const box = element("div", { class: "chart" + (spec.wide ? " wide" : "") }, element("h3", {}, spec.title));
  into.append(box);
  const positive = (values) => spec.log ? values.map((it) => it > 0 ? it : null) : values;
  const draw = () => {
    const width = Math.max(240, box.clientWidth - 20);
    const series = spec.series.map((it, place) => ({
      label: it.label, stroke: () => colour(it.colour || "c" + (place % 7)), width: 2, dash: it.dash, spanGaps: true,
      points: { show: spec.points === true && it.bars === undefined, size: 6 },
      value: (plot, value) => (it.format || spec.format || number)(value),
      ...(it.bars !== undefined ? { fill: () => colour(it.colour || "c" + (place % 7)), paths: uPlot.paths.bars({ size: [0.7, 60], align: it.bars }) } : {}),
    }));
    const most = spec.most, least = spec.least;
    const options = {
      width, height: spec.height || (width < 420 ? 230 : 270), hooks: marks(spec), cursor: { points: { size: 7 }, drag: { x: true, y: false } },
      scales: { x: { time: false, range: spec.xRange }, y: spec.log ? { distr: 3 } : { range: (plot, low, high) => [Math.min(0, low || 0), most !== undefined ? most : (high > 0 ? high * 1.08 : 1)] } },
      axes: [{ ...axis(spec.xLabel), ...(spec.xValues ? { values: spec.xValues, splits: spec.xSplits } : {}) }, axis(spec.yLabel, spec.log === true, spec.format)],
      series: [{ label: spec.xName || spec.xLabel, value: (plot, value) => spec.xFormat ? spec.xFormat(value) : number(value) }, ...series],
    };
    const plot = new uPlot(options, [spec.x, ...spec.series.map((it) => positive(it.values))], box);
    return plot;
  };
  const entry = { box, draw, plot: draw(), width: box.clientWidth };
  drawn.push(entry);
  return entry;
}

/** Draws everything anew, as after a change of width or colours. */
function redraw(all) {
  for (const it of drawn) {
    if (!it.box.isConnected || (!all && it.box.clientWidth === it.width)) continue;
    it.plot.destroy();
    it.plot = it.draw();
    it.width = it.box.clientWidth;
  }
}

let pending;
new ResizeObserver(() => { clearTimeout(pending); pending = setTimeout(() => redraw(false), 60); }).observe(document.documentElement);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraw(true));

/** A table; a row may be marked. Cells are text or elements. */
function figures(into, header, rows) {
  const cells = (tag, of) => of.map((it) => element(tag, tag === "th" ? { scope: "col" } : {}, it));
  const body = rows.map((row) => element("tr", row.mark ? { class: "mark" } : {}, ...cells("td", row.cells || row)));
  const head = element("thead", {}, element("tr", {}, ...cells("th", header)));
  into.append(element("div", { class: "scroll", tabindex: "0" }, element("table", { class: "figures" }, head, element("tbody", {}, ...body))));
}
