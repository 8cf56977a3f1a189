// As much of a browser as page.js asks for. Every drawing lies at (100, 50) of the window, at twice its size.
class Element {
  constructor(tag, attributes = {}) {
    Object.assign(this, {tag, attributes, children: [], parentElement: null, heard: {}, style: {}});
    Object.assign(this, {hidden: "hidden" in attributes, checked: "checked" in attributes, value: attributes.value});
    Object.assign(this, {offsetWidth: 200, offsetHeight: 60});
  }
  get textContent() { return this.children.map(each => each.textContent ?? each).join(""); }
  set textContent(text) { this.children = [text]; }
  get dataset() { return {cell: this.attributes["data-cell"], length: this.attributes["data-length"]}; }
  get options() { return this.querySelectorAll("option"); }
  get viewBox() { return {baseVal: {width: +this.attributes.viewbox.split(" ")[2]}}; }
  getBoundingClientRect() { return {left: 100, top: 50, width: 2 * this.viewBox.baseVal.width}; }
  getAttribute(name) { return this.attributes[name] ?? null; }
  setAttribute(name, value) { this.attributes[name] = String(value); }
  append(...nodes) {
    for (const node of nodes) { this.children.push(node); if (node instanceof Element) node.parentElement = this; }
  }
  replaceChildren(...nodes) { this.children = []; this.append(...nodes); }
  matches(selectors) {
    return selectors.split(", ").some(selector => {
      const [, tag, name, value] = selector.match(/^(\w*)(?:\[([\w-]+)(?:='(.*)')?\])?$/);
      const own = this.attributes[name];
      return (!tag || tag === this.tag) && (!name || own !== undefined && (value === undefined || value === own));
    });
  }
  closest(selectors) { return this.matches(selectors) ? this : this.parentElement?.closest(selectors) ?? null; }
  *inside() { for (const each of this.children) if (each instanceof Element) { yield each; yield* each.inside(); } }
  querySelectorAll(selectors) { return [...this.inside()].filter(each => each.matches(selectors)); }
  querySelector(selectors) { return this.querySelectorAll(selectors)[0] ?? null; }
  addEventListener(kind, listener) { (this.heard[kind] ??= []).push(listener); }
  fire(kind, event = {}) {
    for (let at = this; at; at = at.parentElement) for (const listener of at.heard[kind] ?? []) listener({target: this, ...event});
  }
}
globalThis.innerWidth = 1280;
globalThis.innerHeight = 800;
const getComputedStyle = node => Object.fromEntries(node.attributes.style.split(";").map(each => each.split(":").map(part => part.trim())));
const document = new Element("html"), addEventListener = (kind, listener) => document.addEventListener(kind, listener);
document.createElement = document.createElementNS = (...names) => new Element(names.at(-1));
document.getElementById = id => document.querySelector(`[id='${id}']`);
const load = ([tag, attributes, children], parent = document) => {
  const node = new Element(tag, attributes);
  parent.append(node);
  for (const each of children) typeof each === "string" ? node.append(each) : load(each, node);
  if (tag === "option") node.value ??= node.textContent;
  if (tag === "select") node.value = node.options[0].value;
  if (tag === "body") document.body = node;
};

// What a reader does, and sees.
const $ = id => document.getElementById(id);
const tick = (cell, kind = "change") => {
  const input = document.querySelector(`input[value='${cell}']`);
  if (kind === "change") input.checked = !input.checked;
  input.fire(kind);
};
const choose = (id, value) => { $(id).value = value; $(id).fire("change"); };
const point = (id, x, y, kind = "pointermove") => $(id).fire(kind, {clientX: 100 + 2 * x, clientY: 50 + 2 * y});
const tip = () => {
  const box = document.body.children.at(-1);
  return box.hidden ? null : box.children.map(row => row.children.map(each => each.textContent ?? each));
};
