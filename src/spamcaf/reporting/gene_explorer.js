"use strict";
// The table of genes (sort, filter, search) and the gene maps, from the JSON in the page; without this script the page
// shows the best and worst genes and static maps.
(() => {
  const MAX_ROWS = 300;
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const element = (tag, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  };
  const mapped = new Map((data.maps ? data.maps.genes : []).map((gene, i) => [gene.name, i]));
  const column = Object.fromEntries(data.columns.map((key, i) => [key, i]));
  const rowOf = new Map(data.rows.map((row) => [row[column.gene], row]));
  const text = (value) => (value === null ? "n/a" : typeof value === "number" ? value.toFixed(3) : value);

  // ---- the table
  const table = byId("gene-table");
  const order = { column: column.ours, descending: true };

  function compare(a, b) {
    const [x, y] = [a[order.column], b[order.column]];
    if (x === null || y === null) return (x === null) - (y === null); // what is missing comes last
    const sign = typeof x === "number" ? x - y : x.localeCompare(y, "en", { numeric: true });
    return order.descending ? -sign : sign;
  }

  function isShown(row) {
    const [outcome, least] = [byId("gene-outcome").value, byId("gene-least").value];
    const name = row[column.gene];
    if (!name.toLowerCase().includes(byId("gene-search").value.trim().toLowerCase())) return false;
    if (least !== "" && !(row[column.ours] >= Number(least))) return false;
    return outcome === "" || (outcome === "mapped" ? mapped.has(name) : row[column.outcome] === outcome);
  }

  function cellOf(value, i) {
    if (i === column.gene) {
      const pick = element("button", { type: "button", className: "pick", title: "show its maps" }, value);
      pick.addEventListener("click", () => { show(value); byId("maps").scrollIntoView(); });
      return element("th", { scope: "row" }, mapped.has(value) ? pick : value);
    }
    if (i === column.outcome) return element("td", { className: value }, data.outcomes[value]);
    return element("td", {}, text(value));
  }

  function fill() {
    const found = data.rows.filter(isShown).sort(compare);
    table.tBodies[0].replaceChildren(...found.slice(0, MAX_ROWS).map((row) => element("tr", {}, ...row.map(cellOf))));
    const more = found.length > MAX_ROWS ? `, the first ${MAX_ROWS} are shown` : "";
    byId("gene-count").value = `${found.length} of ${data.rows.length} genes${more}`;
    [...table.tHead.rows[0].cells].forEach((head, i) => {
      if (i === order.column) head.setAttribute("aria-sort", order.descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
  }

  if (table) {
    [...table.tHead.rows[0].cells].forEach((head, i) => {
      const button = element("button", { type: "button", className: "sort" }, head.textContent);
      button.addEventListener("click", () => {
        order.descending = i === order.column ? !order.descending : i !== column.gene;
        order.column = i;
        fill();
      });
      head.replaceChildren(button);
    });
    const form = byId("gene-filter");
    form.hidden = false;
    form.addEventListener("input", fill);
    form.addEventListener("submit", (event) => event.preventDefault());
    document.querySelectorAll("svg [data-gene]").forEach((point) => {
      point.addEventListener("click", () => {
        if (mapped.has(point.dataset.gene)) show(point.dataset.gene);
        byId("gene-search").value = point.dataset.gene;
        fill();
      });
    });
    fill();
  }

  // ---- the maps
  if (!data.maps) return;
  const maps = data.maps;
  const bytes = (base64) => Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const places = (base64) => {
    const view = new DataView(bytes(base64).buffer);
    return Float32Array.from({ length: view.byteLength / 2 }, (_, i) => view.getUint16(2 * i, true) / 65535);
  };
  const longest = Math.max(...maps.frame);
  const [width, height] = maps.frame.map((side) => side / longest); // sites lie within these, in units of the longer side
  const sites = maps.sites.map((s) => ({ x: places(s.x), y: places(s.y), radius: s.radius }));
  const palettes = maps.palettes.map((base64) => {
    const rgb = bytes(base64);
    return Array.from({ length: 256 }, (_, i) => `rgb(${rgb[3 * i]},${rgb[3 * i + 1]},${rgb[3 * i + 2]})`);
  });
  const decoded = new Map();
  const image = maps.image ? element("img", { src: maps.image, alt: "The H&E image of the section" }) : null;
  const rings = [];
  let picked = 0;

  function addPanel(title, unit, content) {
    const ring = element("span", { className: "ring", hidden: true });
    const box = element("div", { className: "map" }, ...content, ring);
    box.style.aspectRatio = `${width} / ${height}`;
    const value = element("span", { className: "value" });
    const figure = element("figure", {}, box, element("figcaption", {}, title, value));
    byId("gene-maps").append(figure);
    rings.push(ring);
    box.addEventListener("pointermove", (event) => point(box, event));
    box.addEventListener("pointerdown", (event) => point(box, event));
    box.addEventListener("pointerleave", () => point(box, null));
    return { figure, value, unit };
  }

  if (image) addPanel("H&E", "", [image]);
  const panels = maps.panels.map((panel) => {
    const canvas = element("canvas");
    canvas.setAttribute("role", "img");
    const made = addPanel(panel.name, panel.unit, [canvas]);
    const colours = palettes[panel.palette];
    const ramp = element("span", { className: "ramp" });
    ramp.style.background = `linear-gradient(to right, ${colours.filter((_, i) => i % 15 === 0).join(",")})`;
    const ends = element("span", { className: "ends" });
    made.figure.append(ramp, ends);
    return { ...made, ...panel, canvas, colours, ends };
  });

  const valuesOf = (map) => {
    if (!decoded.has(map)) decoded.set(map, bytes(map.values));
    return decoded.get(map);
  };
  const valueAt = (map, i) => map.range[0] + (valuesOf(map)[i] / 255) * (map.range[1] - map.range[0]);

  function draw() {
    const gene = maps.genes[picked];
    panels.forEach((panel, k) => {
      const { canvas } = panel;
      const map = gene.maps[k];
      const { x, y, radius } = sites[panel.sites];
      const scale = (canvas.clientWidth || 260) * (window.devicePixelRatio || 1) / width;
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
      const pen = canvas.getContext("2d");
      if (image && byId("on-image").checked && image.complete) pen.drawImage(image, 0, 0, canvas.width, canvas.height);
      const [low, high] = map.limits;
      for (let i = 0; i < x.length; i += 1) {
        const step = Math.round(255 * Math.min(Math.max((valueAt(map, i) - low) / (high - low), 0), 1));
        pen.fillStyle = panel.colours[step];
        pen.beginPath();
        pen.arc(x[i] * scale, y[i] * scale, Math.max(radius * scale, 0.7), 0, 2 * Math.PI);
        pen.fill();
      }
      canvas.setAttribute("aria-label", `${gene.name}: ${panel.name}`);
      panel.ends.replaceChildren(
        element("span", {}, `≤ ${low.toFixed(2)}`), panel.unit, element("span", {}, `≥ ${high.toFixed(2)}`),
      );
    });
  }

  function nearest(set, u, v) {
    let [best, distance] = [-1, (2.5 * set.radius) ** 2];
    for (let i = 0; i < set.x.length; i += 1) {
      const d = (set.x[i] - u) ** 2 + (set.y[i] - v) ** 2;
      if (d < distance) [best, distance] = [i, d];
    }
    return best;
  }

  function point(box, event) {
    const area = box.getBoundingClientRect();
    const u = event ? (event.clientX - area.left) / area.width : 0;
    const v = event ? (event.clientY - area.top) / area.height : 0;
    rings.forEach((ring) => {
      ring.hidden = !event;
      ring.style.left = `${100 * u}%`;
      ring.style.top = `${100 * v}%`;
    });
    const found = event ? sites.map((set) => nearest(set, u * width, v * height)) : [];
    panels.forEach((panel, k) => {
      const i = event ? found[panel.sites] : -1;
      panel.value.textContent = i < 0 ? "" : valueAt(maps.genes[picked].maps[k], i).toFixed(2);
    });
  }

  function show(name) {
    picked = mapped.get(name);
    byId("gene-picker").value = name;
    const row = rowOf.get(name);
    const against = row && row[column.baseline] !== null ? `, best baseline ${text(row[column.baseline])}` : "";
    byId("picked").value = row ? `${name}: PCC ${text(row[column.ours])} at hidden spots${against}` : name;
    document.querySelectorAll("svg [data-gene]").forEach((dot) => {
      dot.classList.toggle("picked", dot.dataset.gene === name);
    });
    draw();
  }

  const groups = new Map();
  maps.genes.forEach(({ name, group }) => {
    if (!groups.has(group)) groups.set(group, element("optgroup", { label: group }));
    groups.get(group).append(element("option", { value: name }, name));
  });
  byId("gene-picker").append(...groups.values());
  byId("gene-picker").addEventListener("change", (event) => show(event.target.value));
  if (image) byId("on-image").addEventListener("change", draw);
  byId("map-controls").addEventListener("submit", (event) => event.preventDefault());
  byId("map-controls").hidden = false;
  byId("map-note").hidden = false;
  if (image) image.addEventListener("load", draw);
  let drawnAt = 0;
  new ResizeObserver(() => {
    const now = panels[0].canvas.clientWidth;
    if (now !== drawnAt) draw();
    drawnAt = now;
  }).observe(byId("gene-maps"));
  show(maps.genes[0].name);
})();
