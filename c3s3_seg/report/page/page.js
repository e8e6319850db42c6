"use strict";

// Sorting: each header of a sortable table is a button; the first click sorts numbers with the worst first.
for (const table of document.querySelectorAll("table.sortable")) {
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => {
    header.querySelector("button").addEventListener("click", () => {
      const falling = header.getAttribute("aria-sort") === "ascending";
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows];
      const value = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent;
      const order = (a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === "nan" || y === "nan") return (x === "nan") - (y === "nan"); // undefined comes last, both ways
        const apart = isNaN(Number(x)) || isNaN(Number(y))
          ? x.localeCompare(y, undefined, { numeric: true })
          : Math.sign(Number(x) - Number(y)) || 0;
        return falling ? -apart : apart;
      };
      table.tBodies[0].append(...rows.sort(order));
    });
  });
}

// A link to a case opens it.
function openTarget() {
  let name;
  try { name = decodeURIComponent(location.hash.slice(1)); } catch { return; } // "#%" names nothing
  const target = document.getElementById(name);
  if (target && target.tagName === "DETAILS") {
    target.open = true;
    target.scrollIntoView();
  }
}
addEventListener("hashchange", openTarget);
openTarget();

// On paper everything is open but the provenance.
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not(.provenance, [open])")];
  opened.forEach((one) => { one.open = true; });
});
addEventListener("afterprint", () => opened.forEach((one) => { one.open = false; }));

// Surfaces: the script that turns them is unpacked once, when the first is wanted. A browser keeps few WebGL
// pictures alive, so the oldest goes back to its still picture.
const ALIVE = 4;
const live = [];
let plotly = null;

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

function unzipped(base64) {
  return new Response(new Blob([bytesOf(base64)]).stream().pipeThrough(new DecompressionStream("gzip")));
}

function loadPlotly() {
  plotly ??= (async () => {
    const script = document.createElement("script");
    script.textContent = await unzipped(document.getElementById("plotly").textContent).text();
    document.head.append(script);
    return window.Plotly;
  })();
  return plotly;
}

function letters(mesh, ink) {
  // Patient axes: x to the left, y to the back, z to the head.
  const ends = ["x", "y", "z"].map((axis) => [Math.min(...mesh[axis]), Math.max(...mesh[axis])]);
  const middle = ends.map(([low, high]) => (low + high) / 2);
  const names = [["R", "L"], ["A", "P"], ["F", "H"]];
  const marks = { x: [], y: [], z: [], text: [] };
  ends.forEach(([low, high], axis) => [low - 6, high + 6].forEach((end, side) => {
    ["x", "y", "z"].forEach((name, n) => marks[name].push(n === axis ? end : middle[n]));
    marks.text.push(names[axis][side]);
  }));
  return { type: "scatter3d", mode: "text", textfont: { color: ink, size: 14 }, hoverinfo: "skip", ...marks };
}

function unpack({ dtype, bdata }) {
  return new { f4: Float32Array, u2: Uint16Array, u4: Uint32Array }[dtype](bytesOf(bdata).buffer);
}

const WEBGL = Boolean(document.createElement("canvas").getContext("webgl2")); // without it pictures stay still
if (!WEBGL) document.querySelectorAll(".stage .hint").forEach((hint) => { hint.textContent = "No WebGL 2: a still picture"; });

async function turn(stage) {
  if (!WEBGL || stage.classList.contains("live") || stage.classList.contains("waiting")) return;
  stage.classList.add("waiting");
  stage.querySelector(".hint").textContent = "One moment";
  const Plotly = await loadPlotly();
  const numbers = JSON.parse(stage.querySelector("script.mesh").textContent);
  for (const key of ["x", "y", "z", "i", "j", "k", "intensity"]) numbers[key] = unpack(numbers[key]);
  const { unit, ...mesh } = numbers;
  const ink = getComputedStyle(document.body).color;
  const surface = {
    type: "mesh3d", ...mesh, showscale: false, flatshading: false,
    lighting: { ambient: 0.55, diffuse: 0.75, specular: 0.12, roughness: 0.7, fresnel: 0.05 },
    lightposition: { x: -2000, y: -8000, z: 6000 },
    ...(unit === null ? { hoverinfo: "skip" } : { hovertemplate: `%{intensity:.2g} ${unit}<extra></extra>` }),
  };
  const hidden = { visible: false };
  const layout = {
    margin: { l: 0, r: 0, t: 0, b: 0 }, showlegend: false, paper_bgcolor: "rgba(0,0,0,0)",
    scene: {
      aspectmode: "data", xaxis: hidden, yaxis: hidden, zaxis: hidden, bgcolor: "rgba(0,0,0,0)",
      camera: { eye: { x: 0, y: -1.9, z: 0.25 }, up: { x: 0, y: 0, z: 1 } }, dragmode: "orbit",
    },
  };
  const plot = stage.querySelector(".plot");
  stage.classList.add("live");
  stage.classList.remove("waiting");
  await Plotly.newPlot(plot, [surface, letters(mesh, ink)], layout, {
    displaylogo: false, displayModeBar: false, responsive: true, scrollZoom: true,
  });
  live.push(stage);
  if (live.length > ALIVE) rest(live[0], Plotly);
}

function rest(stage, Plotly) {
  live.splice(live.indexOf(stage), 1);
  Plotly.purge(stage.querySelector(".plot"));
  stage.classList.remove("live");
  stage.querySelector(".hint").textContent = "Drag to turn, scroll to zoom";
}

function turnBy(stage, across, up) {
  const plot = stage.querySelector(".plot");
  const camera = plot._fullLayout.scene.camera;
  const { x, y, z } = camera.eye;
  const radius = Math.hypot(x, y, z);
  const azimuth = Math.atan2(y, x) + across;
  const height = Math.max(-1.45, Math.min(1.45, Math.asin(z / radius) + up));
  const flat = radius * Math.cos(height);
  const eye = { x: flat * Math.cos(azimuth), y: flat * Math.sin(azimuth), z: radius * Math.sin(height) };
  window.Plotly.relayout(plot, { "scene.camera": { ...camera, eye, up: { x: 0, y: 0, z: 1 } } });
}

const STEPS = { ArrowLeft: [-0.2, 0], ArrowRight: [0.2, 0], ArrowUp: [0, 0.2], ArrowDown: [0, -0.2] };
for (const stage of document.querySelectorAll(".stage")) {
  stage.addEventListener("pointerenter", () => turn(stage));
  stage.addEventListener("click", () => turn(stage));
  stage.addEventListener("keydown", async (event) => {
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      await turn(stage);
    } else if (STEPS[event.key]) {
      event.preventDefault();
      await turn(stage);
      if (stage.classList.contains("live")) turnBy(stage, ...STEPS[event.key]);
    }
  });
}

// The letters of the surfaces have the colour of the page's text.
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  const ink = getComputedStyle(document.body).color;
  live.forEach((stage) => window.Plotly.restyle(stage.querySelector(".plot"), { "textfont.color": ink }, [1]));
});
