// Copies NiiVue's own bundle, and the licences of all that is in it, to where autoseg serves from: node bundle.mjs OUT
import { copyFileSync, existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const out = process.argv[2];
const lock = JSON.parse(readFileSync("package-lock.json", "utf8"));
const packages = Object.entries(lock.packages).filter(([place]) => place && existsSync(place));
const texts = packages.map(([place, { version, license }]) => {
  // NiiVue's own package has no text of its licence.
  const file = readdirSync(place).find((name) => /^licen[cs]e/i.test(name));
  const text = file ? readFileSync(join(place, file), "utf8").trim() : `https://spdx.org/licenses/${license}.html, https://www.npmjs.com/package/${place.replace("node_modules/", "")}`;
  return `${place.replace("node_modules/", "")} ${version}\n\n${text}\n`;
});
writeFileSync(`${out}.LICENSES.txt`, texts.join(`\n${"-".repeat(80)}\n\n`));
copyFileSync("node_modules/@niivue/niivue/dist/niivue.umd.js", out);
