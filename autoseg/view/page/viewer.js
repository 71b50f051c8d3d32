// The page of `autoseg view`: lists the cases, and shows one of them with NiiVue.
"use strict";

const THICK = 2; // slices, in multiples of the finest edge of a voxel
const OVERLAYS = ["reference", "predicted"];
const find = (id) => document.getElementById(id);
const part = (overlay, name) => find(overlay).querySelector(`.${name}`);

let nv;
let cases = [];
let page = null; // what the server told of the case that is shown
let volumes = {}; // NiiVue's volumes of that case: image, reference, predicted
let areas = {}; // voxels of the label maps as they came, for when outlines are no longer wanted
let wanted = 0; // the case that was asked for last
let busy = false;

async function ask(name) {
  const answer = await fetch(name);
  const content = await answer.json().catch(() => ({ error: `${name}: ${answer.status}` }));
  if (!answer.ok) throw new Error(content.error ?? `${name}: ${answer.status}`);
  return content;
}

function tell(state, words) {
  document.body.dataset.state = state;
  find("state").textContent = words;
  find("channel").disabled = state === "loading"; // it is read when a case begins to load
}

const percent = (dice) => (dice === null ? "–" : (100 * dice).toFixed(1));

// ---- the case

// While a case loads, others may be asked for; only the last of them is shown next.
async function show(number) {
  wanted = Math.min(Math.max(number, 0), cases.length - 1);
  describePlace();
  if (busy) return;
  busy = true;
  for (let shown = null; shown !== wanted; ) {
    shown = wanted;
    tell("loading", "loading ...");
    try {
      await load(shown);
      if (shown === wanted) tell("ready", "");
    } catch (error) {
      if (shown === wanted) tell("error", `${cases[shown].name} can't be shown: ${error.message}`);
    }
  }
  busy = false;
}

function describePlace() {
  find("case").value = String(wanted);
  find("previous").disabled = wanted === 0;
  find("next").disabled = wanted === cases.length - 1;
  find("order").textContent = `${wanted + 1} of ${cases.length}`;
  document.title = `${cases[wanted].name} - autoseg view`;
}

async function load(number) {
  page = null;
  page = await ask(`${number}.json`);
  const channel = Math.min(Math.max(Number(find("channel").value), 0), page.channels.length - 1);
  fillChannels(channel);
  fillLegend();
  const there = OVERLAYS.filter((overlay) => page[`has_${overlay}`]);
  for (const overlay of OVERLAYS) find(overlay).hidden = !there.includes(overlay);
  const [low, high] = page.windows[channel];
  nv.setIsOrientationTextVisible(page.is_anatomical);
  await nv.loadVolumes([
    { url: `${number}/image-${channel}.nii`, name: "image.nii", colormap: "gray", cal_min: low, cal_max: high },
    ...there.map((overlay) => ({ url: `${number}/${overlay}.nii`, name: `${overlay}.nii`, opacity: 0 })),
  ]);
  volumes = { image: nv.volumes[0] };
  areas = {};
  there.forEach((overlay, i) => {
    volumes[overlay] = nv.volumes[i + 1];
    areas[overlay] = volumes[overlay].img;
    volumes[overlay].setColormapLabel(colours());
  });
  find("view-choice").hidden = page.is_flat;
  setView();
  nv.scene.crosshairPos = nv.mm2frac(millimetres(page.place));
  drawOverlays();
  tellWindow();
  nv.createOnLocationChange();
}

// A voxel (x, y, z) in NIfTI's millimetres; its four rows are those of the file.
function millimetres([x, y, z]) {
  const rows = volumes.image.hdr.affine;
  return [0, 1, 2].map((i) => rows[i][0] * x + rows[i][1] * y + rows[i][2] * z + rows[i][3]);
}

// The way back: the voxel of the file, where NiiVue counts along the body's axes. Those of the grid are orthogonal.
function voxelAt(mm) {
  const rows = volumes.image.hdr.affine;
  return [0, 1, 2].map((axis) => {
    const column = rows.slice(0, 3).map((row) => row[axis]);
    const along = column.reduce((sum, part, i) => sum + part * (mm[i] - rows[i][3]), 0);
    return Math.round(along / column.reduce((sum, part) => sum + part * part, 0));
  });
}

async function showChannel() {
  const before = [...nv.scene.crosshairPos];
  await show(wanted);
  nv.scene.crosshairPos = before;
  nv.drawScene();
}

// ---- label maps

function colours() {
  const of = (i) => [0, ...page.legend.map((entry) => entry.colour[i])];
  const shown = [0, ...page.legend.map(() => 255)];
  return { R: of(0), G: of(1), B: of(2), A: shown, labels: ["", ...page.legend.map((entry) => entry.name)] };
}

// The voxels of an area that have one of another kind beside them, or lie at the border; along the fine axes alone, so
// that areas in thick slices don't become outlines as a whole.
function outline(voxels, { dims: [, nx, ny, nz], pixDims }) {
  const edge = new voxels.constructor(voxels.length);
  const finest = Math.min(...pixDims.slice(1, 4));
  const axes = [[1, nx], [nx, ny], [nx * ny, nz]].filter(([, n], i) => n > 1 && pixDims[i + 1] <= THICK * finest);
  for (let i = 0; i < voxels.length; i++) {
    const value = voxels[i];
    if (value === 0) continue;
    for (const [step, n] of axes) {
      const at = Math.floor(i / step) % n;
      if (at === 0 || at === n - 1 || voxels[i - step] !== value || voxels[i + step] !== value) {
        edge[i] = value;
        break;
      }
    }
  }
  return edge;
}

function drawOverlays() {
  for (const overlay of OVERLAYS) {
    const volume = volumes[overlay];
    if (volume === undefined) continue;
    const outlined = part(overlay, "style").value === "outline";
    volume.img = outlined ? outline(areas[overlay], volume.hdr) : areas[overlay];
    volume.opacity = part(overlay, "shown").checked ? Number(part(overlay, "opacity").value) : 0;
  }
  nv.updateGLVolume();
}

function toggle(...overlays) {
  const any = overlays.some((overlay) => part(overlay, "shown").checked);
  for (const overlay of overlays) part(overlay, "shown").checked = !any;
  drawOverlays();
}

// ---- window, view, legend

function setWindow(low, high) {
  volumes.image.cal_min = low;
  volumes.image.cal_max = high;
  nv.updateGLVolume();
  tellWindow();
}

function tellWindow() {
  const round = (value) => Number(value.toPrecision(4));
  find("low").value = round(volumes.image.cal_min);
  find("high").value = round(volumes.image.cal_max);
}

function setView() {
  const view = page?.is_flat ? 0 : Number(find("view").value);
  nv.opts.multiplanarShowRender = 1; // always
  nv.setSliceType(view);
}

function fillChannels(channel) {
  find("channel").replaceChildren(...page.channels.map((name, i) => new Option(name, i, false, i === channel)));
  find("channel-choice").hidden = page.channels.length < 2;
}

function fillLegend() {
  const rows = page.legend.map(({ name, colour, dice }) => {
    const row = document.createElement("tr");
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.backgroundColor = `rgb(${colour.join(",")})`;
    row.insertCell().append(swatch, name);
    row.insertCell().textContent = percent(dice);
    return row;
  });
  find("legend").replaceChildren(...rows);
  find("notes").replaceChildren(
    ...page.notes.map((note) => Object.assign(document.createElement("li"), { textContent: note })),
  );
}

function tellLocation({ values, mm }) {
  if (page === null || volumes.image === undefined) return;
  const names = OVERLAYS.filter((overlay) => volumes[overlay]).map((overlay) => {
    const value = values[nv.volumes.indexOf(volumes[overlay])]?.value ?? 0;
    return `${overlay === "reference" ? "reference" : "prediction"}: ${page.legend[value - 1]?.name ?? "–"}`;
  });
  const value = Number(values[0].value.toPrecision(5));
  find("here").textContent = `voxel (x, y, z) ${voxelAt(mm).join(", ")}: ${value}; ${names.join("; ")}`;
}

// ---- the beginning

function listen() {
  find("case").addEventListener("change", (event) => show(Number(event.target.value)));
  find("next").addEventListener("click", () => show(wanted + 1));
  find("previous").addEventListener("click", () => show(wanted - 1));
  find("channel").addEventListener("change", showChannel);
  find("view").addEventListener("change", setView);
  find("smooth").addEventListener("change", (event) => nv.setInterpolation(!event.target.checked));
  for (const id of ["low", "high"]) {
    find(id).addEventListener("change", () => {
      const [low, high] = [Number(find("low").value), Number(find("high").value)];
      if (page !== null && low < high) setWindow(low, high);
    });
  }
  for (const overlay of OVERLAYS) find(overlay).addEventListener("input", drawOverlays);
  const keys = {
    n: () => show(wanted + 1),
    p: () => show(wanted - 1),
    1: () => toggle("reference"),
    2: () => toggle("predicted"),
    0: () => toggle(...OVERLAYS),
  };
  document.addEventListener("keydown", (event) => {
    const typed = event.target instanceof HTMLInputElement && event.target.type === "number";
    if (typed || event.ctrlKey || event.altKey || event.metaKey) return;
    const act = keys[event.key.toLowerCase()];
    if (act === undefined) return;
    event.preventDefault(); // the list of cases would look for a name that begins so
    act();
  });
}

async function begin() {
  cases = await ask("cases.json");
  const line = ({ name, mean_dice: dice, fold }, i) => {
    const details = [dice === null ? null : `Dice ${percent(dice)}`, fold === null ? null : `fold ${fold}`];
    const told = details.filter((detail) => detail !== null).join(", ");
    return new Option(told ? `${name} (${told})` : name, i);
  };
  find("case").replaceChildren(...cases.map(line));
  nv = new niivue.Niivue({
    backColor: [0, 0, 0, 1],
    crosshairColor: [0.6, 0.95, 0.6, 1],
    crosshairWidth: 0.25,
    crosshairWidthUnit: "percent",
    crosshairGap: 3,
    dragAndDropEnabled: false,
    isRadiologicalConvention: true, // the patient's right on the left, as in the pictures of reports
    logLevel: "error",
    multiplanarLayout: 2, // a grid of two by two
    viewModeHotKey: "", // the page says which view
    onLocationChange: tellLocation,
  });
  nv.onIntensityChange = tellWindow;
  await nv.attachToCanvas(find("canvas"));
  listen();
  await show(0);
}

begin().catch((error) => tell("error", `the page can't begin: ${error.message}`));
