"use strict";
// Draws what /figures.json says, every two seconds while the page is seen. All text goes in as
// text, never as HTML: names of objects are anybody's.
const EVERY_MS = 2000, KEPT = 90, COLOURS = 8;
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const history = [];
let last = null;

function make(tag, options = {}, ...children) {
  const e = ["svg", "rect", "title", "polyline"].includes(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [k, v] of Object.entries(options)) if (v !== undefined) e.setAttribute(k, v);
  e.append(...children.filter((c) => c !== null));
  return e;
}
const count = (n) => Math.round(n).toLocaleString("en");
const many = (n, word) => `${count(n)} ${word}${n === 1 ? "" : "s"}`;
function size(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let i = 0;
  for (; n >= 1024 && i < units.length - 1; i++) n /= 1024;
  return `${i === 0 || n >= 100 ? Math.round(n) : n.toFixed(1)} ${units[i]}`;
}
function since(s) {
  for (const [unit, n] of [["d", 86400], ["h", 3600], ["min", 60]]) if (s >= n) return `${Math.floor(s / n)} ${unit}`;
  return `${Math.max(Math.floor(s), 0)} s`;
}
const label = (o) => o.names[0] ?? `${o.kind} ${o.id}`;

function table(id, heads, rows, none) {
  const cell = (tag, head, v, extra = "") => make(tag, { class: `${head[0] === ">" ? "n" : ""} ${extra}`.trim() }, v);
  const body = rows.map((row) => {
    const tr = make("tr", { "data-object": row.id });
    row.cells.forEach((v, i) => tr.append(cell("td", heads[i], String(v), row.styles?.[i])));
    return tr;
  });
  $(id).replaceChildren(...(rows.length ? [make("thead", {}, make("tr", {}, ...heads.map((h) => cell("th", h, h.replace(">", ""))))), make("tbody", {}, ...body)]
    : none ? [make("tbody", {}, make("tr", {}, make("td", {}, none)))] : []));
}

function cards(s) {
  const first = history[0], before = history[history.length - 2];
  const rate = (k, a = before, b = s) => (a && b.uptime_s > a.uptime_s ? (b[k] - a[k]) / (b.uptime_s - a.uptime_s) : 0);
  const line = (f) => {
    const v = history.slice(1).map((h, i) => f(history[i], h));
    const top = Math.max(...v, 1e-9);
    return make("svg", { viewBox: `0 0 ${KEPT} 26`, preserveAspectRatio: "none" },
      make("polyline", { class: "spark", points: v.map((y, i) => `${KEPT - v.length + i + 1},${25 - 23 * y / top}`).join(" ") }));
  };
  const each = [
    ["memory used", size(s.memory_used), `of ${size(s.memory_limit)}`, (a, b) => b.memory_used],
    ["objects", count(s.objects), s.deleted_pinned ? `${count(s.deleted_pinned)} deleted, still read` : `${many(s.names, "name")}`, (a, b) => b.objects],
    ["puts", `${count(rate("puts"))}/s`, `${count(s.puts)} ever`, (a, b) => rate("puts", a, b)],
    ["put without a copy", `${size(rate("shared"))}/s`, `${size(s.shared)} ever`, (a, b) => rate("shared", a, b)],
    ["copied by puts", `${size(rate("copied"))}/s`, `${size(s.copied)} ever`, (a, b) => rate("copied", a, b)],
    ["pages in memory", size(s.memory_committed), `${size(s.memory_warm)} warm`, (a, b) => b.memory_committed],
  ];
  $("cards").replaceChildren(...each.map(([what, value, more, f]) => make("div", { class: "card" }, make("span", {}, what), make("b", {}, value), make("span", {}, more), line(f))));
}

function memory(d) {
  const s = d.status, known = new Map(d.objects.map((o) => [o.id, o]));
  const bytes = new Map();
  let sealed = 0;
  for (const g of s.segments) if (g.kind !== "catalog") sealed += g.sealed;
  for (const [, n, ids] of d.extents) if (ids.length) bytes.set(ids[0], (bytes.get(ids[0]) ?? 0) + n);
  const ranked = [...bytes].sort((a, b) => b[1] - a[1]);
  const colour = new Map(ranked.slice(0, COLOURS).map(([id], i) => [id, `c${i}`]));
  const name = (id) => (known.has(id) ? label(known.get(id)) : id);
  const box = (x, w, cls, title, id) => make("rect", { x, y: 0, width: Math.max(w, 0), height: 10, class: cls, "data-object": id }, make("title", {}, title));
  const other = Math.max(sealed - [...colour.keys()].reduce((t, id) => t + bytes.get(id), 0), 0);
  const unsealed = s.clients.reduce((t, c) => t + c.unsealed, 0);
  const free = Math.max(s.memory_limit - s.memory_used - s.memory_warm, 0);
  const parts = [...[...colour].map(([id, c]) => [c, name(id), bytes.get(id), id]), ["other", "others and streams", other],
    ["open", "being written", unsealed], ["open", "blocks", s.block_nbytes], ["warm", "warm: free, kept for the next put", s.memory_warm], ["free", "free", free]].filter((e) => e[2] > 0);
  const whole = Math.max(parts.reduce((t, e) => t + e[2], 0), 1);
  let x = 0;
  $("bar").replaceChildren(...parts.map(([c, what, n, id]) => { const w = 1000 * n / whole; x += w; return box(x - w, w, c, `${what}: ${size(n)}`, id); }));
  $("legend").replaceChildren(...parts.map(([c, what, n]) => make("li", {}, make("svg", { class: "swatch", viewBox: "0 0 1 1" }, make("rect", { width: 1, height: 1, class: c })), `${what} · ${size(n)}`)));
  $("memory-note").textContent = `${size(s.memory_used)} of ${size(s.memory_limit)} (${Math.round(100 * s.memory_used / s.memory_limit)}%), ${s.page_kind} pages`;

  const programs = new Map(s.clients.map((c) => [c.client, c]));
  $("map").replaceChildren(...s.segments.filter((g) => g.kind !== "catalog" && (g.sealed || g.committed)).map((g) => segment(g)));
  function segment(g) {
    const later = s.segments.map((o) => o.offset).filter((o) => o > g.offset);
    const end = later.length ? Math.min(...later) : Infinity;
    const here = d.extents.filter(([at]) => at >= g.offset && at < end);
    const widest = 0.04 * Math.max(g.sealed, 1);  // a gap is drawn no wider: most of a segment is empty
    let at = here.length ? here[0][0] : 0, span = 0;
    const drawn = [];
    for (const [from, n, ids] of here) {
      const before = drawn.at(-1), gap = Math.min(from - at, widest);
      if (before && before.ids[0] === ids[0] && gap < 0.002 * g.sealed) {
        before.n += n; before.width += gap + n;
      } else drawn.push({ x: span + gap, width: n, n, ids });
      span += gap + n; at = from + n;
    }
    const owner = programs.get(g.owner);
    const who = owner ? `of ${owner.program || "a client"} (pid ${owner.pid})` : g.owner === null ? "without a writer" : `of client ${g.owner}`;
    const strip = make("svg", { class: "strip", viewBox: "0 0 1000 10", preserveAspectRatio: "none", role: "img", "aria-label": `Extents of segment ${g.segment}` },
      ...drawn.map((e) => box(1000 * e.x / span, 1000 * e.width / span, colour.get(e.ids[0]) ?? "other",
        `${e.ids.map(name).join(", ") || "a stream's, or deleted and still read"}: ${size(e.n)}`, e.ids[0])));
    return make("div", { class: "segment" }, make("p", {}, `segment ${g.segment} ${who}: ${size(g.sealed)} in ${many(g.extents, "extent")}, ${size(g.committed)} of pages${g.kind === "strict" ? ", strict" : ""}`), strip);
  }
}

function objects(d) {
  const wanted = $("filter").value.toLowerCase(), now = d.now_s;
  const clients = new Map(d.status.clients.map((c) => [c.pid, c.program]));
  const holder = (pid) => (clients.get(pid) ? `${pid} ${clients.get(pid)}` : String(pid));
  const here = d.objects.filter((o) => o.here && `${o.names.join(" ")} ${o.kind} ${o.id}`.toLowerCase().includes(wanted))
    .sort((a, b) => (b.names.length > 0) - (a.names.length > 0) || b.nbytes - a.nbytes);
  table("objects", ["NAME", "TYPE", ">SIZE", ">STORED", "HELD BY", ">MEMBER OF", ">AGE", ">PUT BY", "ID"], here.map((o) => ({
    id: o.id, styles: ["long", "", "", "", "long", "", "", "", "id"],
    cells: [o.names.join(", ") || "–", o.kind, size(o.nbytes), size(o.stored), o.pinned_by.map(holder).join(", ") || "–", o.parents || "–", since(now - o.created_s), o.pid, o.id],
  })), "none");
  $("objects-note").textContent = d.objects_total > d.objects.length ? `the newest ${count(d.objects.length)} of ${count(d.objects_total)}` : count(d.status.objects);
  $("empty").hidden = d.status.objects + d.status.streams > 0;
  $("objects-section").hidden = !$("empty").hidden;
  $("how").textContent = `import pyarrow as pa, vineyard_arrow\n\nclient = vineyard_arrow.connect(${JSON.stringify(d.socket)})\nclient.put(pa.table({"x": [1, 2, 3]}), name="first")`;
}

function others(d) {
  const s = d.status;
  table("clients", ["PROGRAM", ">PID", ">SEALED", ">UNSEALED", ">WARM", ">HOLDS"], s.clients.map((c) => ({ styles: ["long"], cells: [c.program || "–", c.pid, size(c.sealed), size(c.unsealed), size(c.warm), count(c.pins)] })), "none attached");
  table("streams", ["NAME", "STATE", ">BATCHES", ">SIZE", ">IN THE STORE", ">WRITER", "READERS (PID AT BATCH)", "ID"], d.streams.map((t) => ({
    styles: ["long", t.state === "failed" ? "long bad" : "", "", "", "", "", "long", "id"],
    cells: [t.name ?? "–", t.failure ? `failed: ${t.failure}` : t.state, count(t.batches), size(t.nbytes), `${count(t.backlog)}, ${size(t.stored)}`, t.pid, t.readers.map(([pid, at]) => `${pid} at ${count(at)}`).join(", ") || "–", t.id],
  })), "none");
  $("clients-note").textContent = count(s.clients.length);
  $("streams-note").textContent = count(d.streams.length);
  $("cluster-note").textContent = `${s.meta}, ${many(d.instances.length, "instance")}`;
  table("instances", ["INSTANCE", "HOST", ">PID", "RPC", "VERSION"], d.instances.map((i) => ({
    styles: ["id"], cells: [i.number.toString(16).padStart(6, "0") + (i.number === s.instance ? " (this)" : ""), i.host, i.pid, i.rpc || "–", i.version] })));
  table("globals", ["OF THE CLUSTER", "TYPE", ">SIZE", ">MEMBERS", "MISSING", "ID"], d.objects.filter((o) => o.is_global || !o.here).map((o) => ({
    styles: ["long", "", "", "", o.lost.length ? "long bad" : "", "id"],
    cells: [o.names.join(", ") || "–", o.kind, size(o.nbytes), count(o.members), o.lost.join(", ") || "–", o.id] })));
}

function draw(d) {
  const s = d.status;
  if (history.length && history[history.length - 1].pid !== s.pid) history.length = 0;
  if (history.at(-1)?.uptime_s !== s.uptime_s) history.push(s);
  if (history.length > KEPT) history.shift();
  $("who").textContent = `${s.version}, instance ${s.instance.toString(16).padStart(6, "0")}, pid ${s.pid}, up ${since(s.uptime_s)}, ${d.socket}`;
  cards(s); memory(d); objects(d); others(d);
  const wrong = s.fenced ? "The cluster counted this instance out; it joins again by itself." : s.unavailable_s !== null ? `The metadata of the cluster was not reached for ${since(s.unavailable_s)}.` : "";
  say(wrong, false);
}
function say(text, gone) {
  $("alert").textContent = text;
  $("alert").hidden = !text;
  document.body.classList.toggle("gone", gone);
}
async function look() {
  if (!document.hidden) {
    try {
      const reply = await fetch("figures.json", { signal: AbortSignal.timeout(8000) });
      if (!reply.ok) throw new Error(await reply.text());
      last = await reply.json();
      draw(last);
    } catch (error) {
      console.log(String(error));
      say(`The daemon does not answer${last ? "; this is what it last said" : ""}. The page goes on asking.`, true);
    }
  }
  setTimeout(look, EVERY_MS);
}
document.addEventListener("mouseover", (event) => {
  const id = event.target.closest?.("[data-object]")?.dataset.object;
  for (const e of document.querySelectorAll("[data-object]")) e.classList.toggle("lit", id !== undefined && e.dataset.object === id);
});
$("filter").addEventListener("input", () => last && objects(last));
look();
