// The rollouts: filters, the list, and one rollout or a pair in detail.

const CHUNK = 60;
const ROLLOUTS = DATA.rollouts;
const CHOICES = {
  correct: [['yes', 'correct'], ['no', 'wrong']],
  tool: [['yes', 'called'], ['no', 'never called'], ['fault', 'a faulty call']],
  quality: [
    ['covers', 'covers the target'], ['partial', 'covers a part'],
    ['missed', 'misses it'], ['tight', 'IoU over 0.5'], ['none', 'no crop']],
  change: [
    ['fixed', 'wrong → correct'], ['broken', 'correct → wrong'],
    ['same', 'the same']],
  sort: [['low', 'lowest reward'], ['high', 'highest reward'],
         ['iou', 'lowest IoU']],
};
const LABELS = {
  policy: 'Policy', compare: 'Compare with', change: 'Outcome changed',
  correct: 'Answer', tool: 'Tool', quality: 'Last crop', category: 'Category',
  budget: 'Budget', sort: 'Order',
};
const TESTS = {
  policy: (r, value) => r.policy === value,
  category: (r, value) => r.category === value,
  budget: (r, value) => String(r.budget) === value,
  correct: (r, value) => r.correct === (value === 'yes'),
  tool: (r, value) => value === 'fault' ? hasFault(r)
    : r.called === (value === 'yes'),
  quality: (r, value) => matchesQuality(r, value),
  low: (r, value) => r.reward >= Number(value),
  high: (r, value) => r.reward <= Number(value),
  find: (r, value) => r.haystack.includes(value.toLowerCase()),
};
const ORDERS = {
  low: (a, b) => a.reward - b.reward,
  high: (a, b) => b.reward - a.reward,
  iou: (a, b) => (a.quality?.iou ?? 2) - (b.quality?.iou ?? 2),
};
const browse = {state: {}, controls: {}, found: [], current: null};

function hasFault(rollout) {
  return rollout.turns.some(turn =>
    !['NONE', 'OK', 'VALID'].includes(turn.call_status));
}

function matchesQuality({quality, has_box}, value) {
  if (value === 'none') return !has_box;
  if (!quality) return false;
  return {
    covers: quality.coverage > .9,
    partial: quality.coverage > 0 && quality.coverage <= .9,
    missed: quality.coverage === 0,
    tight: quality.iou > .5,
  }[value];
}

// Two rollouts can be compared if they differ in nothing but the policy.
function pairKey(rollout, policy) {
  return JSON.stringify([rollout.id, rollout.budget, rollout.sample, policy]);
}

function partner(rollout) {
  const {compare} = browse.state;
  return compare ? browse.byKey.get(pairKey(rollout, compare)) : null;
}

function changeOf(rollout, other) {
  if (rollout.correct === other.correct) return 'same';
  return other.correct ? 'fixed' : 'broken';
}

function isFound(rollout) {
  const {compare, change} = browse.state;
  for (const [name, test] of Object.entries(TESTS))
    if (browse.state[name] && !test(rollout, browse.state[name])) return false;
  if (!compare) return true;
  const other = partner(rollout);
  return rollout.policy !== compare && other != null &&
    (!change || changeOf(rollout, other) === change);
}

function applyFilters() {
  const {state} = browse;
  browse.controls.change.parentNode.hidden = !state.compare;
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

function showSummary() {
  const shown = browse.state.compare
    ? browse.found.flatMap(r => [r, partner(r)]) : browse.found;
  const heads = ['', 'rollouts', 'correct', 'called', 'reward',
                 'crop IoU', 'crop coverage', 'crop area'];
  const rows = [...Map.groupBy(shown, r => r.policy)].map(([policy, all]) => {
    const quality = name => percent(mean(all.map(r => r.quality?.[name])), 1);
    return el('tr', {}, el('th', {scope: 'row'}, policy),
      ...[all.length, percent(mean(all.map(r => Number(r.correct))), 1),
          percent(mean(all.map(r => Number(r.called))), 1),
          number(mean(all.map(r => r.reward))), quality('iou'),
          quality('coverage'), quality('area')].map(
        text => el('td', {}, String(text))));
  });
  document.getElementById('summary-table').replaceChildren(el('table', {},
    el('thead', {}, el('tr', {}, ...heads.map(head => el('th', {}, head)))),
    el('tbody', {}, ...rows)));
}

function itemOf(rollout) {
  const other = partner(rollout);
  return el('button', {
    class: 'item', type: 'button', 'data-index': rollout.index,
    onclick: () => { show(rollout); writeHash(); },
  }, image(rollout.original_jpeg, {loading: 'lazy', decoding: 'async'}),
    el('span', {class: 'q'}, rollout.question),
    el('span', {class: 'meta'}, verdict(rollout), ' ',
       ...(other ? ['→ ', verdict(other)] : []),
       ` · ${number(rollout.reward)} · ${rollout.policy}`));
}

function showList() {
  const list = document.getElementById('list'), {found} = browse;
  document.getElementById('count').textContent =
    `${found.length} of ${ROLLOUTS.length} rollouts`;
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
  const step = (text, by) =>
    el('button', {type: 'button', onclick: () => move(by)}, text);
  detail.replaceChildren(
    el('h3', {}, rollout.question),
    el('p', {class: 'facts'},
      el('span', {}, 'answer ', el('b', {}, rollout.answer)),
      el('span', {}, rollout.category), el('span', {}, rollout.id),
      el('span', {class: 'steps'}, step('Previous', -1), step('Next', 1))),
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

function setUpFilters() {
  const policies = distinct('policy'), budgets = distinct('budget');
  const choices = {
    policy: policies, compare: policies, ...CHOICES,
    category: distinct('category'), budget: budgets};
  const order = ['policy', 'compare', 'change', 'correct', 'tool', 'quality',
                 'category', 'budget', 'sort'];
  const reward = el('label', {}, 'Reward from, to', el('span', {class: 'range'},
    inputControl('low', {type: 'number', step: .1, 'aria-label': 'from'}),
    inputControl('high', {type: 'number', step: .1, 'aria-label': 'to'})));
  const find = el('label', {}, 'Text', inputControl(
    'find', {type: 'search', placeholder: 'question, answer, turns'}));
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
    ...labels.slice(0, -1), reward, find, labels.at(-1), clear);
}

function loadHash() {
  const known = [...Object.keys(browse.controls), 'show'];
  const hash = readHash();
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
  ROLLOUTS.forEach((rollout, index) => {
    rollout.index = index;
    rollout.haystack = [
      rollout.id, rollout.question, rollout.answer, rollout.prediction,
      ...rollout.turns.map(turn => turn.text)].join('\n').toLowerCase();
    browse.byKey.set(pairKey(rollout, rollout.policy), rollout);
  });
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
