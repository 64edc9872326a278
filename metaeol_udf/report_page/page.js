(() => {
  "use strict";
  const source = document.getElementById("data");
  if (!source) return;
  const { names, near } = JSON.parse(source.textContent);
  const chart = document.getElementById("points");
  const links = document.getElementById("links");
  const points = [...chart.querySelectorAll("circle")];
  const find = document.getElementById("find");
  const chosen = document.getElementById("chosen");
  const list = document.getElementById("near");
  const keys = document.getElementById("keys");

  const button = (row) => {
    const made = document.createElement("button");
    const name = document.createElement("bdi");
    name.textContent = names[row];
    made.type = "button";
    made.dataset.row = row;
    made.append(name);
    return made;
  };

  const link = (from, to) => {
    const line = document.createElementNS(chart.namespaceURI, "line");
    line.setAttribute("x1", points[from].getAttribute("cx"));
    line.setAttribute("y1", points[from].getAttribute("cy"));
    line.setAttribute("x2", points[to].getAttribute("cx"));
    line.setAttribute("y2", points[to].getAttribute("cy"));
    return line;
  };

  const clear = () => {
    chart.classList.remove("has-choice");
    points.forEach((point) => point.classList.remove("near", "chosen"));
    links.replaceChildren();
    list.replaceChildren();
    chosen.hidden = true;
    document.getElementById("hint").hidden = false;
  };

  const choose = (row) => {
    clear();
    chart.classList.add("has-choice");
    points[row].classList.add("chosen");
    chosen.textContent = names[row];
    chosen.hidden = false;
    document.getElementById("hint").hidden = true;
    near[row].forEach(([other, cosine]) => {
      points[other].classList.add("near");
      links.append(link(row, other));
      const item = document.createElement("li");
      const value = document.createElement("span");
      value.textContent = cosine.toFixed(4);
      item.append(value, button(other));
      list.append(item);
    });
  };

  keys.append(...names.map((name) => Object.assign(document.createElement("option"), { value: name })));
  find.addEventListener("input", () => {
    const row = names.indexOf(find.value);
    if (row >= 0) choose(row);
    else clear();
  });
  document.addEventListener("click", (event) => {
    const row = event.target.closest("[data-row]")?.dataset.row;
    if (row !== undefined) choose(Number(row));
    else if (event.target === chart) clear();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") clear();
  });
})();
