'use strict';
// What policies wrote reaches the document only as text nodes.

// Characters that act on their surroundings, such as a change of the writing
// direction, are shown as their code instead.
const UNSEEN = new RegExp(
  '[\\u0000-\\u0008\\u000b-\\u001f\\u007f-\\u009f\\u061c\\u200e\\u200f' +
  '\\u202a-\\u202e\\u2066-\\u2069]', 'g');

function visible(_, value) {
  return typeof value !== 'string' ? value : value.replace(UNSEEN, character =>
    `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

const DATA = JSON.parse(document.getElementById('data').textContent, visible);
const SVG = 'http://www.w3.org/2000/svg';

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, '');
    else if (value != null && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.filter(child => child != null));
  return node;
}

function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function styled(node, styles) {
  for (const [name, value] of Object.entries(styles))
    node.style.setProperty(name, value);
  return node;
}

// Of a number that is rounded to zero no sign is left.
function rounded(value, digits) {
  return value.toFixed(digits).replace(/^-(?=[0.]*$)/, '');
}

function number(value, digits = 2) {
  return value == null ? '—' : rounded(value, digits);
}

function significant(value) {
  if (value == null) return '—';
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(1);
  return String(Number(value.toPrecision(3)));
}

function percent(value, digits = 0) {
  return value == null ? '—' : rounded(100 * value, digits) + ' %';
}

function mean(values) {
  const known = values.filter(value => value != null);
  return known.length ? known.reduce((a, b) => a + b) / known.length : null;
}

// The address's fragment holds what is selected, so that a view can be linked.
function readHash() {
  return new URLSearchParams(
    location.hash.includes('=') ? location.hash.slice(1) : '');
}

function setUpTheme() {
  const order = ['auto', 'light', 'dark'];
  const button = document.getElementById('theme');
  const apply = theme => {
    document.documentElement.dataset.theme = theme;
    button.textContent = `Theme: ${theme}`;
  };
  let theme = readHash().get('theme');
  // Some browsers forbid storage to a page opened from a file.
  try { theme ??= localStorage.getItem('theme'); } catch { /* no storage */ }
  theme = order.includes(theme) ? theme : 'auto';
  button.hidden = false;
  button.addEventListener('click', () => {
    theme = order[(order.indexOf(theme) + 1) % order.length];
    try { localStorage.setItem('theme', theme); } catch { /* no storage */ }
    apply(theme);
  });
  apply(theme);
}
setUpTheme();
