"use strict";
// Behind every cell: its verdicts, and what was on the wire as a time–sequence diagram.
(() => {
  const all = JSON.parse(document.getElementById("data").textContent);
  const clauses = new Map(all.clauses.map((c) => [c.id, c]));
  const situations = new Map(all.situations.map((s) => [s.name, s]));
  const panel = document.getElementById("cell");
  const KINDS = [
    ["new data", "#2f6fb3"],
    ["sent again, within the window", "#3a9d5d"],
    ["sent again, beyond the edge", "#d08a1d"],
    ["empty probe", "#7a4fb0"],
    ["reset", "#c5303a"],
    ["new data beyond the edge", "#c5303a"],
  ];
  const WORDS = { kept: "kept", broken: "BROKEN", inconclusive: "not settled", taken: "taken", "not-taken": "not taken" };
  const ENDS = {
    complete: "completed", reset: "reset by the peer", "gave-up": "given up by the peer", "peer-gone": "the peer's process ended",
    "time-limit": "the time was over", flood: "stopped: the peer flooded", enough: "as many bytes as were wanted", interrupted: "interrupted",
  };
  let plot = null;

  const make = (tag, attributes = {}, ...children) => {
    const e = document.createElement(tag);
    for (const [k, v] of Object.entries(attributes)) {
      if (k === "class") e.className = v;
      else if (k.startsWith("on")) e.addEventListener(k.slice(2), v);
      else e.setAttribute(k, v);
    }
    e.append(...children.filter((c) => c !== null && c !== undefined));
    return e;
  };
  const seconds = (us) => {
    const s = us / 1e6;
    if (us < 1000) return `${us} µs`;
    if (s < 1) return `${(s * 1e3).toFixed(us < 10000 ? 1 : 0)} ms`;
    return `${s.toFixed(s < 10 ? 2 : 1)} s`;
  };

  // Most of the time nothing happens: pauses longer than this are drawn short, the longer the shorter.
  const PAUSE = 40e3;
  const squeeze = (gap) => (gap <= PAUSE ? gap : PAUSE * (1 + 2 * Math.log10(gap / PAUSE)));

  function axis(sequence, squeezed) {
    const times = new Set([0]);
    for (const a of sequence.acks) times.add(a[1]);
    for (const d of sequence.data) times.add(d[1]);
    for (const s of sequence.steps) times.add(s[0]);
    const sorted = [...times].sort((a, b) => a - b);
    const at = new Map();
    let x = 0;
    let before = 0;
    for (const t of sorted) {
      x += squeezed ? squeeze(t - before) : t - before;
      before = t;
      at.set(t, x / 1e6);
    }
    const xs = sorted.map((t) => at.get(t));
    const back = (v) => {
      let lo = 0;
      let hi = xs.length - 1;
      if (v <= xs[0]) return sorted[0];
      if (v >= xs[hi]) return sorted[hi];
      while (hi - lo > 1) {
        const mid = (lo + hi) >> 1;
        if (xs[mid] <= v) lo = mid;
        else hi = mid;
      }
      const part = xs[hi] === xs[lo] ? 0 : (v - xs[lo]) / (xs[hi] - xs[lo]);
      return sorted[lo] + part * (sorted[hi] - sorted[lo]);
    };
    return { x: (t) => at.get(t), back, end: xs[xs.length - 1] || 1 };
  }

  function draw(host, sequence, squeezed, marked) {
    if (plot) plot.destroy();
    host.replaceChildren();
    const time = axis(sequence, squeezed);
    const broken = new Map(sequence.broken.map(([p, c]) => [p, c]));
    // Acknowledgement and edge: where there are several at one instant, the last one holds.
    const xs = [];
    const acks = [];
    const edges = [];
    for (const [, t, ack, window] of sequence.acks) {
      const x = time.x(t);
      if (xs.length && xs[xs.length - 1] === x) {
        acks[acks.length - 1] = ack;
        edges[edges.length - 1] = ack + window;
      } else {
        xs.push(x);
        acks.push(ack);
        edges.push(ack + window);
      }
    }
    if (xs.length && xs[xs.length - 1] < time.end) {
      xs.push(time.end);
      acks.push(acks[acks.length - 1]);
      edges.push(edges[edges.length - 1]);
    }
    const tip = make("div", { class: "tip", hidden: "" });
    const highest = Math.max(1, ...edges, ...sequence.data.map((d) => d[2] + d[3]));
    const stepped = uPlot.paths.stepped({ align: 1 });
    const hooks = {
      draw: [
        (u) => {
          const { ctx } = u;
          const { left, top, width, height } = u.bbox;
          const dpr = uPlot.pxRatio;
          ctx.save();
          ctx.beginPath();
          ctx.rect(left, top, width, height);
          ctx.clip();
          ctx.font = `${11 * dpr}px system-ui, sans-serif`;
          let last = -Infinity;
          let row = 0;
          for (const [t, name] of sequence.steps) {
            const x = u.valToPos(time.x(t), "x", true);
            ctx.strokeStyle = "#8b95a0";
            ctx.setLineDash([3 * dpr, 3 * dpr]);
            ctx.lineWidth = dpr;
            ctx.beginPath();
            ctx.moveTo(x, top);
            ctx.lineTo(x, top + height);
            ctx.stroke();
            row = x - last < 90 * dpr ? (row + 1) % 4 : 0;
            last = x;
            ctx.fillStyle = "#5c6670";
            ctx.fillText(name, x + 3 * dpr, top + (12 + 13 * row) * dpr);
          }
          ctx.setLineDash([]);
          for (const [packet, t, seq, len, kind] of sequence.data) {
            const x = u.valToPos(time.x(t), "x", true);
            const y0 = u.valToPos(seq, "y", true);
            const y1 = u.valToPos(seq + len, "y", true);
            ctx.strokeStyle = KINDS[kind][1];
            ctx.fillStyle = KINDS[kind][1];
            ctx.lineWidth = 2 * dpr;
            if (Math.abs(y1 - y0) < 2 * dpr) {
              ctx.beginPath();
              ctx.arc(x, y0, 2.5 * dpr, 0, 7);
              ctx.fill();
            } else {
              ctx.beginPath();
              ctx.moveTo(x, y0);
              ctx.lineTo(x, y1);
              ctx.stroke();
            }
            if (kind === 4) ctx.fillText("RST", x + 4 * dpr, y0 - 4 * dpr);
            if (broken.has(packet)) ring(ctx, x, (y0 + y1) / 2, dpr, "#c5303a", broken.get(packet));
            if (marked === packet) ring(ctx, x, (y0 + y1) / 2, dpr, "#1c2126", `#${packet}`);
          }
          for (const [packet, t, ack, window] of sequence.acks) {
            const x = u.valToPos(time.x(t), "x", true);
            const y = u.valToPos(ack + window, "y", true);
            if (broken.has(packet)) ring(ctx, x, y, dpr, "#c5303a", broken.get(packet));
            if (marked === packet) ring(ctx, x, y, dpr, "#1c2126", `#${packet}`);
          }
          ctx.restore();
        },
      ],
      setCursor: [
        (u) => {
          const { left, top } = u.cursor;
          if (left < 0) {
            tip.hidden = true;
            return;
          }
          let best = null;
          let least = 14 * 14;
          const look = (t, y0, y1, text) => {
            const dx = u.valToPos(time.x(t), "x") - left;
            const a = u.valToPos(y1, "y");
            const b = u.valToPos(y0, "y");
            const dy = top < a ? a - top : top > b ? top - b : 0;
            const d = dx * dx + dy * dy;
            if (d < least) {
              least = d;
              best = text;
            }
          };
          for (const [packet, t, seq, len, kind] of sequence.data) {
            const clause = broken.has(packet) ? ` — breaks ${broken.get(packet)}` : "";
            look(t, seq, seq + len, `#${packet}  ${seconds(t)}  ${seq}…${seq + len} (${len} bytes): ${KINDS[kind][0]}${clause}`);
          }
          for (const [packet, t, ack, window] of sequence.acks) {
            look(t, ack, ack, `#${packet}  ${seconds(t)}  ACK ${ack}, window ${window}, edge ${ack + window}`);
            look(t, ack + window, ack + window, `#${packet}  ${seconds(t)}  edge ${ack + window}: ACK ${ack}, window ${window}`);
          }
          tip.hidden = best === null;
          if (best !== null) {
            tip.textContent = best;
            const over = u.over.getBoundingClientRect();
            const box = host.getBoundingClientRect();
            const x = over.left - box.left + left + 12;
            tip.style.left = `${Math.min(x, box.width - tip.offsetWidth - 4)}px`;
            tip.style.top = `${over.top - box.top + top + 14}px`;
          }
        },
      ],
    };
    const options = {
      width: Math.max(400, host.clientWidth),
      height: 430,
      cursor: { drag: { x: true, y: true, uni: 20 }, points: { show: false } },
      legend: { show: false },
      scales: { x: { time: false, range: (u, lo, hi) => [lo, hi] }, y: { range: (u, lo, hi) => [lo, hi] } },
      axes: [
        { values: (u, ticks) => ticks.map((v) => seconds(Math.round(time.back(v)))), space: 90 },
        { size: 70, values: (u, ticks) => ticks.map((v) => v.toLocaleString("en")) },
      ],
      series: [
        {},
        { stroke: "#2b8a4b", width: 1.5, paths: stepped, points: { show: false } },
        { stroke: "#5c6670", width: 1.5, paths: stepped, points: { show: false } },
      ],
      bands: [{ series: [2, 1], fill: "rgba(120, 160, 200, 0.18)" }],
      hooks,
    };
    plot = new uPlot(options, [xs, acks, edges], host);
    const whole = () => {
      plot.batch(() => {
        plot.setScale("x", { min: -time.end * 0.01, max: time.end * 1.02 });
        plot.setScale("y", { min: -highest * 0.02, max: highest * 1.06 });
      });
    };
    whole();
    plot.over.addEventListener("dblclick", whole);
    host.append(tip);
  }

  function ring(ctx, x, y, dpr, colour, text) {
    ctx.strokeStyle = colour;
    ctx.fillStyle = colour;
    ctx.lineWidth = 1.5 * dpr;
    ctx.beginPath();
    ctx.arc(x, y, 7 * dpr, 0, 7);
    ctx.stroke();
    ctx.fillText(text, x + 9 * dpr, y + 4 * dpr);
  }

  function show(cell) {
    panel.replaceChildren();
    panel.hidden = false;
    const situation = situations.get(cell.situation);
    panel.append(make("h2", {}, `${cell.peer} in ${cell.situation}`));
    if (situation) panel.append(make("p", {}, `${situation.about}. `, make("small", {}, situation.explain)));
    if (cell.state !== "judged") {
      panel.append(make("p", {}, cell.state === "failed" ? "It could not be run:" : "It makes no sense here:"), make("pre", {}, cell.why));
      return;
    }
    const f = cell.figures;
    const facts = [
      cell.stack, ENDS[cell.end] || cell.end, cell.error ? `by its own account ${cell.error}` : null,
      `${f.bytes.toLocaleString("en")} bytes in ${seconds(f.seconds * 1e6)} (${cell.clock} time)`,
      f.bytes_again ? `${f.bytes_again.toLocaleString("en")} bytes again` : null,
      f.retractions ? `the edge moved left ${f.retractions === 1 ? "once" : `${f.retractions} times`}` : null,
      f.closed ? `closed for ${seconds(f.closed * 1e6)}` : null,
      f.recovery !== undefined ? `${seconds(Math.round(f.recovery * 1e6))} from reopening to progress` : null,
      f.goodput_ratio !== undefined ? `goodput ${f.goodput_ratio.toFixed(2)} of the undisturbed run's` : null,
    ];
    panel.append(make("p", { class: "facts" }, facts.filter(Boolean).join(" · ")));
    const host = make("div", { class: "diagram" });
    let squeezed = true;
    let marked = null;
    const redraw = () => draw(host, cell.sequence, squeezed, marked);
    const body = make("tbody");
    for (const v of cell.verdicts) {
      const c = clauses.get(v.clause);
      const links = v.packets.map((p) => make("a", { href: "#", onclick: (e) => { e.preventDefault(); marked = p; redraw(); } }, `#${p}`));
      body.append(make("tr", {},
        make("td", { class: `outcome ${v.outcome}` }, WORDS[v.outcome]),
        make("td", {}, make("span", { class: `level ${c.level.toLowerCase()}` }, c.level)),
        make("td", {}, make("b", { title: c.duty }, c.id), make("br"), make("small", {}, c.source)),
        make("td", {}, v.words, make("div", { class: "packets" }, ...links))));
    }
    panel.append(make("table", { class: "verdicts" }, body));
    if (cell.missed) panel.append(make("p", {}, `Steps that were waited for in vain: ${cell.missed.join(", ")}.`));
    const tools = make("div", { class: "tools" });
    const box = make("input", { type: "checkbox", onchange: (e) => { squeezed = e.target.checked; redraw(); } });
    box.checked = true;
    tools.append(make("label", {}, box, " squeeze pauses"));
    for (const [name, colour] of KINDS.slice(0, 5)) {
      tools.append(make("span", {}, make("span", { class: "swatch", style: `background:${colour}` }), name));
    }
    tools.append(make("span", {}, make("span", { class: "swatch", style: "background:rgba(120,160,200,.4)" }), "the window: from what is acknowledged to the right edge"));
    tools.append(make("span", {}, "drag to zoom, double-click for all"));
    if (cell.sequence.left_out) tools.append(make("span", {}, `${cell.sequence.left_out} points are left out`));
    panel.append(tools, host, make("p", {}, "Capture: ", make("a", { href: cell.capture }, cell.capture), ` · SHA-256 of what was read: ${cell.sha256.slice(0, 16)}…`));
    if (cell.said) panel.append(make("p", {}, "The peer's last words:"), make("pre", {}, cell.said));
    redraw();
  }

  function route() {
    const hash = location.hash.slice(1);
    const cut = hash.lastIndexOf("/");
    if (cut < 0) return;
    const peer = decodeURIComponent(hash.slice(0, cut));
    const situation = decodeURIComponent(hash.slice(cut + 1));
    const cell = all.cells.find((c) => c.peer === peer && c.situation === situation);
    for (const a of document.querySelectorAll("a.cell")) a.classList.toggle("chosen", a.getAttribute("href") === location.hash);
    if (!cell) return;
    show(cell);
    panel.scrollIntoView({ block: "nearest" });
  }
  window.addEventListener("hashchange", route);
  window.addEventListener("resize", () => { if (plot && !panel.hidden) plot.setSize({ width: plot.root.parentNode.clientWidth, height: 430 }); });
  route();
})();
