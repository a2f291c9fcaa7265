// Plots over time, from the JSON at data-plot, in the page's own colours; drawn anew when the fleet or the window changes.
"use strict";
(() => {
  const COLOURS = ["--p1", "--p2", "--p3", "--p4", "--p5", "--p6", "--p7", "--p8"];
  const style = () => getComputedStyle(document.documentElement);
  const drawn = new Map();

  function align(series) {
    const times = [...new Set(series.flatMap((one) => one.points.map((point) => point[0])))].sort((a, b) => a - b);
    const columns = series.map((one) => {
      const at = new Map(one.points);
      return times.map((time) => at.get(time) ?? null);
    });
    return [times.map((time) => time / 1000), ...columns];
  }

  const two = (number) => String(number).padStart(2, "0");
  const grouped = (number) => number.toLocaleString("en").replaceAll(",", "\u202f"); // as pages write numbers
  const day = (moment) => `${two(moment.getMonth() + 1)}-${two(moment.getDate())}`;
  const clock = (moment) => `${two(moment.getHours())}:${two(moment.getMinutes())}`;

  // Times as pages write them; the larger part stands below where it begins.
  function ticks(_plot, splits, _axis, _space, step) {
    let before = "";
    return splits.map((split) => {
      const moment = new Date(split * 1000);
      const [small, large] = step < 86400 ? [clock(moment), day(moment)] : [day(moment), String(moment.getFullYear())];
      const said = large === before ? small : `${small}\n${large}`;
      before = large;
      return said;
    });
  }

  function said(_plot, value) {
    if (value === null) return "–";
    const moment = new Date(value * 1000);
    return `${moment.getFullYear()}-${day(moment)} ${clock(moment)}`;
  }

  // While nobody points at the plot its legend tells the newest counts.
  function newest(plot) {
    if (plot.cursor.left < 0 || plot.cursor.idx == null) plot.setLegend({ idx: plot.data[0].length - 1 });
  }

  function options(figure, found, width) {
    const colour = (name) => style().getPropertyValue(name).trim();
    const axis = { stroke: colour("--muted"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1 } };
    return {
      width,
      height: Number(figure.dataset.height),
      cursor: { drag: { x: true, y: false } },
      legend: { live: true },
      scales: { y: { range: (_plot, _low, high) => [0, Math.max(1, high * 1.05)] } },
      axes: [
        { ...axis, values: ticks },
        {
          ...axis,
          size: (_plot, values) => 24 + 7 * Math.max(1, ...(values || []).map((value) => value.length)),
          values: (_plot, values) => values.map((value) => Number.isInteger(value) ? grouped(value) : ""),
        },
      ],
      hooks: { ready: [newest], setCursor: [newest] },
      series: [
        { label: "Time", value: said },
        ...found.series.map((one, index) => ({
          label: one.name,
          stroke: colour(COLOURS[index % COLOURS.length]),
          width: 2,
          spanGaps: true,
          paths: uPlot.paths.stepped({ align: 1 }), // a count holds until the next one
          points: { show: one.points.length < 3 },
          value: (_plot, value) => value === null ? "–" : grouped(value),
        })),
      ],
    };
  }

  async function draw(figure) {
    const area = figure.querySelector(".area");
    const answer = await fetch(figure.dataset.plot, { headers: { Accept: "application/json" } });
    if (!answer.ok) return;
    const found = await answer.json();
    drawn.get(figure)?.destroy();
    drawn.delete(figure);
    if (!found.series.length) {
      area.textContent = "Nothing to draw yet.";
      return;
    }
    area.textContent = "";
    drawn.set(figure, new uPlot(options(figure, found, area.clientWidth), align(found.series), area));
  }

  const figures = () => document.querySelectorAll("figure[data-plot]");
  const drawAll = () => { for (const figure of figures()) draw(figure).catch(() => {}); };
  let waiting = null;
  const soon = (after) => { if (waiting === null) waiting = setTimeout(() => { waiting = null; drawAll(); }, after); };

  drawAll();
  document.addEventListener("changed", () => soon(5000));
  addEventListener("resize", () => {
    for (const [figure, plot] of drawn) plot.setSize({ width: figure.querySelector(".area").clientWidth, height: Number(figure.dataset.height) });
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
})();
