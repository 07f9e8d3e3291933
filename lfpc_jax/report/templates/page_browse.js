// The rollouts: the list, one rollout or a pair in detail, and the controls.

const CHUNK = 40;

function applyFilters() {
  const {state} = browse;
  browse.controls.change.parentNode.hidden = !state.compare;
  const active = Object.keys(browse.controls).filter(name => state[name]);
  document.querySelector('#filter-box summary').textContent =
    active.length ? `Filters: ${active.length} set` : 'Filters';
  browse.found = ROLLOUTS.filter(isFound);
  if (state.sort) browse.found.sort(ORDERS[state.sort]);
  const wanted = browse.found.find(r => String(r.index) === state.show);
  showList();
  showSummary();
  show(wanted ?? browse.found[0] ?? null);
}

function writeHash() {
  const used = Object.entries(browse.state).filter(([, value]) => value);
  const theme = readHash().get('theme');
  if (theme) used.push(['theme', theme]);
  const text = new URLSearchParams(used).toString();
  if (text || location.hash.includes('='))
    history.replaceState(null, '', `#${text}`);
}

function itemOf(rollout) {
  const other = partner(rollout);
  return el('button', {
    class: 'item', type: 'button', 'data-index': rollout.index,
    onclick: () => { show(rollout); writeHash(); },
  }, thumbnail(rollout),
    el('span', {class: 'q'}, rollout.question),
    el('span', {class: 'meta'}, verdict(rollout), ' ',
       ...(other ? ['→ ', verdict(other)] : []),
       ` · ${number(rollout.reward)} · ${rollout.label}`));
}

// The image is handed to the browser only once it comes into view: making and
// decoding those of a whole list takes longer than the filters do.
function thumbnail(rollout) {
  const node = el('img', {alt: '', decoding: 'async'});
  browse.pictures.set(node, rollout.thumbnail);
  browse.painter.observe(node);
  return node;
}

function showList() {
  const list = document.getElementById('list'), {found} = browse;
  document.getElementById('count').textContent = browse.state.compare
    ? `${found.length} pairs among ${ROLLOUTS.length} rollouts`
    : `${found.length} of ${ROLLOUTS.length} rollouts`;
  browse.painter.disconnect();
  list.replaceChildren();
  list.scrollTop = 0;
  browse.extend = () => {
    const start = list.querySelectorAll('.item').length;
    list.querySelector('.more')?.remove();
    list.append(...found.slice(start, start + CHUNK).map(itemOf));
    if (start + CHUNK >= found.length) return;
    const more = el('div', {class: 'more empty'}, 'more');
    list.append(more);
    browse.watcher.observe(more);
  };
  browse.extend();
  if (!found.length)
    list.append(el('p', {class: 'empty'}, 'No rollout passes these filters.'));
}

function show(rollout) {
  browse.current = rollout;
  browse.state.show = rollout ? String(rollout.index) : '';
  for (const item of document.querySelectorAll('.item'))
    item.setAttribute('aria-current',
                      String(item.dataset.index === browse.state.show));
  const detail = document.getElementById('detail');
  if (!rollout) return detail.replaceChildren();
  const other = partner(rollout);
  gap.cuts = [];
  const step = (text, by, key) => el('button', {
    type: 'button', title: `key ${key}`, onclick: () => move(by)}, text);
  detail.replaceChildren(
    el('h3', {}, rollout.question),
    el('p', {class: 'facts'},
      el('span', {}, 'answer ', el('b', {}, rollout.answer)),
      el('span', {}, rollout.category), el('span', {}, rollout.id),
      el('span', {class: 'steps'}, step('Previous', -1, 'k'),
         step('Next', 1, 'j'))),
    el('div', {class: 'pair'}, rolloutView(rollout),
       other ? rolloutView(other) : null));
}

function move(by) {
  const {found, current} = browse;
  const next = found[found.indexOf(current) + by];
  if (!next) return;
  const list = document.getElementById('list');
  const find = () => list.querySelector(`[data-index="${next.index}"]`);
  if (!find()) browse.extend();
  show(next);
  writeHash();
  const item = find();
  // Scrolls the list alone: scrollIntoView would move the page as well.
  if (item.offsetTop < list.scrollTop ||
      item.offsetTop + item.offsetHeight > list.scrollTop + list.clientHeight)
    list.scrollTop = item.offsetTop - list.clientHeight / 3;
}

function distinct(name) {
  return [...new Set(ROLLOUTS.map(r => r[name]))].map(
    value => [String(value), String(value)]);
}

function setState(name, value) {
  browse.state[name] = value;
  browse.state.show = '';
  applyFilters();
  writeHash();
}

function selectControl(name, choices) {
  const blank = {compare: 'nothing', sort: 'as recorded'}[name] ?? 'any';
  const control = el('select', {
    onchange: event => setState(name, event.target.value),
  }, ...[['', blank], ...choices].map(
    ([value, text]) => el('option', {value}, text)));
  browse.controls[name] = control;
  return el('label', {}, LABELS[name], control);
}

function inputControl(name, attributes) {
  return browse.controls[name] = el('input', {
    ...attributes, oninput: event => setState(name, event.target.value)});
}

function rangeControl(low) {
  const [text, measure, high] = RANGES[low];
  const values = ROLLOUTS.map(measure).filter(value => value != null);
  const [least, most] = values.length ? [
    values.reduce((a, b) => Math.min(a, b)),
    values.reduce((a, b) => Math.max(a, b))] : [];
  const input = (name, end, limit) => inputControl(name, {
    type: 'number', step: 'any', inputmode: 'decimal', 'aria-label': end,
    placeholder: significant(limit)});
  return el('label', {hidden: !values.length}, text,
    el('span', {class: 'range'}, input(low, 'from', least),
       input(high, 'to', most)));
}

// A phone shows the filters when asked; a wide window has room for them.
function setUpFold() {
  const box = document.getElementById('filter-box');
  const narrow = matchMedia('(max-width: 52rem)');
  const fold = () => { box.open = !narrow.matches; };
  narrow.addEventListener('change', fold);
  fold();
}

function setUpFilters() {
  const policies = distinct('policy'), budgets = distinct('budget');
  const choices = {
    policy: policies, compare: policies, ...CHOICES,
    category: distinct('category'), budget: budgets};
  const order = ['policy', 'compare', 'change', 'correct', 'tool', 'quality',
                 'category', 'budget', 'sort'];
  const find = el('label', {}, 'Text', inputControl(
    'find', {type: 'search', placeholder: 'any word'}));
  const clear = el('button', {type: 'button', onclick: () => {
    browse.state = {};
    for (const control of Object.values(browse.controls)) control.value = '';
    applyFilters();
    writeHash();
  }}, 'Clear');
  const labels = order.map(name => selectControl(name, choices[name]));
  labels[order.indexOf('budget')].hidden = budgets.length < 2;
  labels[order.indexOf('compare')].hidden = policies.length < 2;
  document.getElementById('filters').append(
    ...labels.slice(0, -1), ...Object.keys(RANGES).map(rangeControl), find,
    labels.at(-1), clear);
  setUpFold();
}

function loadHash() {
  const known = [...Object.keys(browse.controls), 'show'];
  let hash = readHash();
  if (!known.some(name => hash.has(name)))
    hash = new URLSearchParams(DATA.start);
  browse.state = {};
  for (const name of known) {
    const control = browse.controls[name];
    if (control) control.value = hash.get(name) ?? '';
    // A select answers '' to a value that it does not offer.
    browse.state[name] = control ? control.value : hash.get(name) ?? '';
  }
  applyFilters();
}

function onKey(event) {
  const typing = event.target.closest?.('input, select, textarea');
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === 'j') move(1);
  if (event.key === 'k') move(-1);
}

function setUpBrowser() {
  if (!ROLLOUTS.length) return;
  browse.byKey = new Map();
  const several = ROLLOUTS.some(rollout => rollout.sample > 0);
  ROLLOUTS.forEach((rollout, index) => {
    rollout.index = index;
    rollout.label = several
      ? `${rollout.policy}, rollout ${rollout.sample + 1}` : rollout.policy;
    rollout.haystack = [
      rollout.id, rollout.question, rollout.answer, rollout.prediction,
      ...rollout.turns.map(turn => turn.text)].join('\n').toLowerCase();
    browse.byKey.set(pairKey(rollout, rollout.policy), rollout);
  });
  browse.pictures = new WeakMap();
  browse.painter = new IntersectionObserver((entries, painter) => {
    for (const {target, isIntersecting} of entries) {
      if (!isIntersecting) continue;
      target.src = address(browse.pictures.get(target));
      painter.unobserve(target);
    }
  }, {root: document.getElementById('list'), rootMargin: '100px'});
  browse.watcher = new IntersectionObserver(entries => {
    for (const {target, isIntersecting} of entries)
      if (isIntersecting && target.isConnected) browse.extend();
  }, {root: document.getElementById('list'), rootMargin: '300px'});
  setUpFilters();
  loadHash();
  addEventListener('hashchange', () => {
    // A section's link is a hash too, and is no selection.
    if (location.hash.includes('=')) loadHash();
  });
  document.addEventListener('keydown', onKey);
}
setUpBrowser();
