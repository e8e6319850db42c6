// Three linked planes of a volume, on canvases. No WebGL: a slice of a scan is a small picture.
const MODES = ["outline", "fill", "off"];
const KEYS = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10, PageDown: -10 };
const volumes = {};

function volume(name) {
  volumes[name] ??= (async () => {
    const { data, ...facts } = JSON.parse(document.getElementById(name).textContent);
    const all = new Uint8Array(await unzipped(data).arrayBuffer());
    const [grey, mask] = [facts.grey, facts.shape].map((shape) => shape.reduce((a, b) => a * b));
    facts.scan = all.subarray(0, grey);
    facts.masks = facts.colours.map((_, n) => all.subarray(grey + n * mask, grey + (n + 1) * mask));
    return facts;
  })();
  return volumes[name];
}

class Viewer {
  constructor(root, facts) {
    const [at, modes] = [root.dataset.at.split(",").map(Number), facts.masks.map(() => "outline")];
    Object.assign(this, { root, facts, window: facts.window, at, modes, waiting: false });
    this.planes = [...root.querySelectorAll(".plane")].map((figure) => this.plane(figure));
    this.selects = [...root.querySelectorAll("select")];
    this.selects.forEach((select, n) => select.addEventListener("change", () => this.show(n, select.value)));
    root.querySelectorAll("button[data-at]").forEach((button) => {
      button.addEventListener("click", () => this.go(button.dataset.at.split(",").map(Number)));
    });
    root.querySelector(".reset").addEventListener("click", () => this.level(...facts.window));
    root.classList.add("live"); // canvases get a size, and their observers draw
  }

  plane(figure) {
    const [canvas, input] = figure.querySelectorAll("canvas, input");
    const plane = { figure, canvas, still: document.createElement("canvas"), ...this.facts.planes[figure.dataset.plane] };
    let turned = 0; // a touchpad sends many small turns of the wheel
    input.addEventListener("input", () => this.step(plane, Number(input.value) - this.at[plane.across]));
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      turned += event.deltaMode === 0 ? event.deltaY / 50 : event.deltaY;
      this.step(plane, -Math.trunc(turned));
      turned -= Math.trunc(turned);
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const layer = event.ctrlKey || event.metaKey ? -1 : "mt".indexOf(event.key.toLowerCase());
      if (layer in this.modes) this.show(layer, MODES[(MODES.indexOf(this.modes[layer]) + 1) % MODES.length]);
      if (!KEYS[event.key]) return;
      event.preventDefault();
      this.step(plane, KEYS[event.key]);
    });
    const enlarge = (one) => one.figure.classList.toggle("large", one === plane);
    canvas.addEventListener("dblclick", () => this.planes.forEach(enlarge));
    let start = null; // of a drag, which sets window and level; a click without one sets the crosshair
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button === 0) start = { x: event.clientX, y: event.clientY, window: this.window, moved: false };
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!start || !event.buttons) return;
      const [right, down, [low, high]] = [event.clientX - start.x, event.clientY - start.y, start.window];
      if (!start.moved && Math.hypot(right, down) < 4) return;
      start.moved = true;
      canvas.setPointerCapture(event.pointerId);
      const half = ((high - low) / 2) * Math.exp(right / 200);
      const middle = (low + high) / 2 + ((high - low) * down) / 300;
      this.level(middle - half, middle + half);
    });
    canvas.addEventListener("pointerup", (event) => {
      if (start && !start.moved) this.pick(plane, event.offsetX, event.offsetY);
      start = null;
    });
    new ResizeObserver(() => this.draw()).observe(canvas);
    return plane;
  }

  pick({ right, down, left, top, pixel }, x, y) {
    const row = this.upright(down, Math.floor((y - top) / pixel[1]));
    this.go(this.at.with(right, Math.floor((x - left) / pixel[0])).with(down, row));
  }

  upright(down, row) { // the head is up: rows run against z
    return down === 2 ? this.facts.shape[2] - 1 - row : row;
  }
  step({ across }, steps) {
    this.go(this.at.with(across, this.at[across] + steps));
  }
  go(to) {
    this.at = to.map((place, axis) => Math.max(0, Math.min(this.facts.shape[axis] - 1, place)));
    this.draw();
  }
  level(low, high) {
    this.window = [low, Math.max(high, low + this.facts.step)];
    this.draw();
  }
  show(layer, mode) {
    this.selects[layer].value = this.modes[layer] = mode;
    this.draw();
  }

  draw() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.root.dataset.at = this.at.join(",");
      const [low, high] = this.window;
      const words = [high - low, (low + high) / 2].map((value) => Number(value.toPrecision(4)));
      this.root.querySelector(".level").textContent = `Window ${words[0]}, level ${words[1]}`;
      this.planes.forEach((plane) => plane.canvas.clientWidth && this.paint(plane));
    });
  }

  section(array, shape, block, { across, right, down }) { // one slice of the field, rows from the top
    const steps = [1, shape[0], shape[0] * shape[1]];
    const [width, height] = [this.facts.shape[right], this.facts.shape[down]];
    const start = Math.floor(this.at[across] / block[across]) * steps[across];
    const out = new Uint8Array(width * height);
    for (let y = 0, n = 0; y < height; y++) {
      const row = start + Math.floor(this.upright(down, y) / block[down]) * steps[down];
      for (let x = 0; x < width; x++) out[n++] = array[row + Math.floor(x / block[right]) * steps[right]];
    }
    return out;
  }

  paint(plane) {
    const { facts, at } = this;
    const { figure, canvas, still, across, right, down, letters } = plane;
    const size = [facts.shape[right], facts.shape[down]];
    const [wide, high, dots] = [canvas.clientWidth, canvas.clientHeight, devicePixelRatio];
    const mm = [facts.spacing[right], facts.spacing[down]];
    const scale = Math.min(wide / (size[0] * mm[0]), high / (size[1] * mm[1]));
    const pixel = mm.map((length) => length * scale);
    const [left, top] = [(wide - size[0] * pixel[0]) / 2, (high - size[1] * pixel[1]) / 2];
    Object.assign(plane, { left, top, pixel });
    Object.assign(canvas, { width: wide * dots, height: high * dots });
    Object.assign(still, { width: size[0], height: size[1] });
    const masks = facts.masks.map((mask) => this.section(mask, facts.shape, [1, 1, 1], plane));
    still.getContext("2d").putImageData(this.picture(plane, masks, size), 0, 0);
    const pen = canvas.getContext("2d");
    pen.setTransform(dots, 0, 0, dots, left * dots, top * dots);
    pen.drawImage(still, 0, 0, size[0] * pixel[0], size[1] * pixel[1]);
    [...masks.keys()].reverse().filter((n) => this.modes[n] === "outline").forEach((n) => {
      this.outline(pen, masks[n], facts.colours[n], size, pixel); // the prediction, the first, comes last
    });
    const [x, y] = [(at[right] + 0.5) * pixel[0], (this.upright(down, at[down]) + 0.5) * pixel[1]];
    pen.fillStyle = "rgba(236, 238, 242, 0.7)";
    [[-left, x - 14], [x + 14, wide]].forEach(([from, to]) => pen.fillRect(from, y - 0.5, to - from, 1));
    [[-top, y - 14], [y + 14, high]].forEach(([from, to]) => pen.fillRect(x - 0.5, from, 1, to - from));
    pen.setTransform(dots, 0, 0, dots, 0, 0);
    const style = { fillStyle: "#eceef2", strokeStyle: "#0e1014", lineWidth: 3, font: "15px sans-serif" };
    Object.assign(pen, style, { textBaseline: "middle", textAlign: "center" });
    [[11, high / 2], [wide - 11, high / 2], [wide / 2, 12], [wide / 2, high - 12]].forEach((place, n) => {
      pen.strokeText(letters[n], ...place);
      pen.fillText(letters[n], ...place);
    });
    const [first, step, count] = facts.slices[across];
    figure.querySelector("output").textContent = `${first + step * at[across]}/${count}`;
    figure.querySelector("input").value = at[across];
  }

  picture(plane, masks, size) { // the slice with its window, and the filled masks over it
    const { facts, window: [low, high] } = this;
    const greys = new Uint8ClampedArray(256).map((_, n) => (facts.low + n * facts.step - low) / (high - low) * 255);
    const image = new ImageData(...size);
    const filled = masks.map((mask, n) => [mask, facts.colours[n]]).filter((_, n) => this.modes[n] === "fill");
    this.section(facts.scan, facts.grey, facts.block, plane).forEach((value, n) => {
      image.data.fill(greys[value], 4 * n, 4 * n + 3);
      image.data[4 * n + 3] = 255;
      filled.forEach(([mask, colours]) => mask[n] && colours[mask[n] - 1].forEach((part, c) => {
        image.data[4 * n + c] = 0.6 * image.data[4 * n + c] + 0.4 * part;
      }));
    });
    return image;
  }

  outline(pen, mask, colours, [width, height], pixel) { // along the edges of voxels, as the mask is
    const paths = colours.map(() => new Path2D());
    const value = (x, y) => (x >= 0 && y >= 0 && x < width && y < height ? mask[y * width + x] : 0);
    mask.forEach((label, n) => {
      const [x, y] = [n % width, Math.floor(n / width)];
      if (label) [[-1, 0], [1, 0], [0, -1], [0, 1]].forEach(([right, down]) => { // its four neighbours
        if (value(x + right, y + down) === label) return;
        const [a, b] = [x + (right > 0), y + (down > 0)];
        paths[label - 1].moveTo(a * pixel[0], b * pixel[1]);
        paths[label - 1].lineTo((a + Math.abs(down)) * pixel[0], (b + Math.abs(right)) * pixel[1]);
      });
    });
    const style = (lineWidth, strokeStyle) => Object.assign(pen, { lineWidth, strokeStyle, lineCap: "square" });
    paths.forEach((path) => style(3.4, "rgb(14, 16, 20)").stroke(path));
    paths.forEach((path, n) => style(1.8, `rgb(${colours[n]})`).stroke(path));
  }
}

// A viewer is unpacked when it comes into view. In an older browser the still planes remain.
if (window.DecompressionStream && Array.prototype.with) {
  const seen = new IntersectionObserver((entries) => entries.forEach(async ({ isIntersecting, target }) => {
    if (!isIntersecting) return;
    seen.unobserve(target);
    target.viewer = new Viewer(target, await volume(target.dataset.volume));
  }), { rootMargin: "200px" });
  document.querySelectorAll(".viewer").forEach((root) => seen.observe(root));
}
