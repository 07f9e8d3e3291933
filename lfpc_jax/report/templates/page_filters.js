// Which rollouts are shown: the tests of the filters, pairs, and their means.

const ROLLOUTS = DATA.rollouts;
const CHOICES = {
  correct: [['yes', 'correct'], ['no', 'wrong']],
  tool: [
    ['yes', 'called'], ['no', 'never called'], ['fault', 'a faulty call'],
    ['one', 'one crop'], ['more', 'several crops']],
  quality: [
    ['covers', 'covers the target'], ['partial', 'covers a part'],
    ['missed', 'misses it'], ['tight', 'IoU over 0.5'], ['none', 'no crop']],
  change: [
    ['fixed', 'wrong → correct'], ['broken', 'correct → wrong'],
    ['same', 'the same'], ['right', 'both correct'], ['wrong', 'both wrong']],
  sort: [['low', 'lowest reward'], ['high', 'highest reward'],
         ['iou', 'lowest IoU']],
};
const LABELS = {
  policy: 'Policy', compare: 'Compare with', change: 'Outcome changed',
  correct: 'Answer', tool: 'Tool', quality: 'Last crop', category: 'Category',
  budget: 'Budget', sort: 'Order',
};
// Of numbers from, to: what the label says, and what is measured.
const RANGES = {
  low: ['Reward from, to', r => r.reward, 'high'],
  iou_low: ['Crop IoU from, to', r => r.quality?.iou, 'iou_high'],
  cover_low: ['Crop coverage from, to', r => r.quality?.coverage, 'cover_high'],
};
const TESTS = {
  policy: (r, value) => r.policy === value,
  category: (r, value) => r.category === value,
  budget: (r, value) => String(r.budget) === value,
  correct: (r, value) => r.correct === (value === 'yes'),
  tool: (r, value) => matchesTool(r, value),
  quality: (r, value) => matchesQuality(r, value),
  find: (r, value) => r.haystack.includes(value.toLowerCase()),
};
for (const [low, [, measure, high]] of Object.entries(RANGES)) {
  // A comparison with what was not measured is false: it is left out.
  TESTS[low] = (r, value) => measure(r) >= Number(value);
  TESTS[high] = (r, value) => measure(r) <= Number(value);
}
const ORDERS = {
  low: (a, b) => a.reward - b.reward,
  high: (a, b) => b.reward - a.reward,
  iou: (a, b) => (a.quality?.iou ?? 2) - (b.quality?.iou ?? 2),
};
const browse = {state: {}, controls: {}, found: [], current: null};

function hasFault(rollout) {
  return rollout.turns.some(isFaulty);
}

function matchesTool(rollout, value) {
  if (value === 'fault') return hasFault(rollout);
  if (value === 'yes' || value === 'no')
    return rollout.called === (value === 'yes');
  const crops = rollout.turns.filter(turn => turn.box).length;
  return value === 'one' ? crops === 1 : crops > 1;
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

function matchesChange(rollout, other, value) {
  const both = rollout.correct === other.correct;
  return {
    same: both,
    right: both && other.correct,
    wrong: both && !other.correct,
    fixed: !both && other.correct,
    broken: !both && !other.correct,
  }[value];
}

function isFound(rollout) {
  const {compare, change} = browse.state;
  for (const [name, test] of Object.entries(TESTS))
    if (browse.state[name] && !test(rollout, browse.state[name])) return false;
  if (!compare) return true;
  const other = partner(rollout);
  return rollout.policy !== compare && other != null &&
    (!change || matchesChange(rollout, other, change));
}

// What the means over rollouts are of, and how one of them reads.
const MEANS = {
  correct: [r => Number(r.correct), x => percent(x, 1)],
  called: [r => Number(r.called), x => percent(x, 1)],
  reward: [r => r.reward, x => number(x)],
  'crop IoU': [r => r.quality?.iou, x => percent(x, 1)],
  'crop coverage': [r => r.quality?.coverage, x => percent(x, 1)],
  'crop area': [r => r.quality?.area, x => percent(x, 1)],
};

// Of two policies: the second minus the first, where both were measured.
function differenceRow(found) {
  const cells = Object.values(MEANS).map(([measure, text]) => {
    const value = mean(found.map(r => {
      const [a, b] = [measure(r), measure(partner(r))];
      return a == null || b == null ? null : b - a;
    }));
    return el('td', {}, value > 0 ? `+${text(value)}` : text(value));
  });
  return el('tr', {class: 'difference'},
    el('th', {scope: 'row'}, 'difference',
      el('small', {}, 'where both have one')),
    el('td', {}, String(found.length)), ...cells);
}

function showSummary() {
  const {found, state} = browse;
  const shown = state.compare
    ? new Set(found.flatMap(r => [r, partner(r)])) : found;
  const groups = Map.groupBy(shown, r => r.policy);
  const rows = [...groups].map(([policy, all]) =>
    el('tr', {}, el('th', {scope: 'row'}, policy),
      el('td', {}, String(all.length)),
      ...Object.values(MEANS).map(([measure, text]) =>
        el('td', {}, text(mean(all.map(measure)))))));
  if (state.compare && groups.size === 2) rows.push(differenceRow(found));
  const heads = ['', 'rollouts', ...Object.keys(MEANS)];
  document.getElementById('summary-table').replaceChildren(el('table', {},
    el('thead', {}, el('tr', {}, ...heads.map(head => el('th', {}, head)))),
    el('tbody', {}, ...rows)));
}
