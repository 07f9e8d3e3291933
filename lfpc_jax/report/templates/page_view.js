// One rollout: its images with boxes, its reward terms, and its turns.

const MARKS = /(<\/?(?:think|tool_call|tool_response|answer)>)/;

// Where all sliders stand, so that two policies, and one rollout after another,
// are looked at alike; and how each slider in view is moved.
const gap = {share: 50, cuts: []};

function address(key) {
  const data = document.getElementById(`image-${key}`).textContent;
  return `data:image/jpeg;base64,${data}`;
}

function image(key, attributes = {}, width = 0) {
  return el('img', {
    alt: '', ...attributes, src: address(key),
    // A coarse view shows its true pixels, not a browser's blur of them; what
    // has been shrunk from `width` for this page alone has none to show.
    onload: event => {
      const {naturalWidth, naturalHeight, classList} = event.target;
      classList.toggle('coarse', naturalWidth >= width &&
        Math.max(naturalWidth, naturalHeight) < 400);
    },
  });
}

function rectangle([x1, y1, x2, y2], name) {
  const place = {x: x1, y: y1, width: x2 - x1, height: y2 - y1};
  return svg('g', {},
    svg('rect', {...place, class: 'halo'}),
    svg('rect', {...place, class: name}));
}

// The boxes over the image; each policy box by its turn, to light it up.
function boxLayer(rollout) {
  const [height, width] = rollout.original_size, byTurn = new Map(), tags = [];
  const layer = svg('svg', {
    viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: 'none',
    'aria-hidden': 'true'});
  [...rollout.targets].reverse().forEach((target, i, all) => layer.append(
    rectangle(target, i === all.length - 1 ? 'target' : 'context')));
  rollout.turns.forEach((turn, k) => {
    if (!turn.box) return;
    const shape = rectangle(turn.box, 'policy');
    layer.append(shape);
    const [x1, y1] = turn.box, low = y1 < .06 * height;
    const tag = styled(
      el('span', {class: low ? 'tag low' : 'tag'}, `${k + 1}`),
      {left: `${100 * x1 / width}%`, top: `${100 * y1 / height}%`});
    tags.push(tag);
    byTurn.set(k, [shape, tag]);
  });
  return {layer, tags, byTurn};
}

function highlight(byTurn, chosen) {
  for (const [k, nodes] of byTurn)
    for (const node of nodes)
      node.classList.toggle('dim', chosen != null && k !== chosen);
}

function cutAll(share) {
  gap.share = share;
  for (const cut of gap.cuts) cut(share);
}

// What the policy saw lies over the original, cut at the slider.
function stage(rollout, boxes) {
  const [height, width] = rollout.original_size;
  const view = image(rollout.view_jpeg, {alt: 'What the policy saw'});
  const seam = el('div', {class: 'seam'});
  const slider = el('input', {
    type: 'range', min: 0, max: 100, value: gap.share,
    'aria-label': 'From the original to what the policy saw',
    oninput: event => cutAll(Number(event.target.value))});
  const cut = share => {
    slider.value = share;
    view.style.clipPath = `inset(0 ${100 - share}% 0 0)`;
    seam.style.left = `${share}%`;
  };
  const size = {
    'aspect-ratio': `${width} / ${height}`,
    width: `min(100%, ${(68 * width / height).toFixed(1)}vh)`};
  cut(gap.share);
  gap.cuts.push(cut);
  const tokens = rollout.budget ? `, ${rollout.budget} visual tokens` : '';
  return [
    styled(el('div', {class: 'stage'},
      image(rollout.original_jpeg, {alt: 'The original'}, width), view,
      boxes.layer, seam, ...boxes.tags, slider), size),
    styled(el('div', {class: 'ends'},
      el('button', {type: 'button', onclick: () => cutAll(100)},
         `What the policy saw${tokens}`),
      el('button', {type: 'button', onclick: () => cutAll(0)},
         `Original, ${width}\u00a0×\u00a0${height}`)), {width: size.width}),
  ];
}

function legend(rollout) {
  const {targets, has_box} = rollout;
  const entry = (name, text) => el('li', {class: name}, el('i'), text);
  return el('ul', {class: 'legend'},
    has_box ? entry('policy', 'policy’s crop, by turn') : null,
    targets.length ? entry('target', 'smallest target') : null,
    targets.length > 1 ? entry('context', 'target with context') : null);
}

function rewardTable(rollout) {
  const {rewards, reward} = rollout;
  const terms = [...Object.entries(rewards), ['reward', reward]];
  const sizes = terms.map(([, value]) => Math.abs(value ?? 0));
  const largest = Math.max(...sizes, 1);
  return el('table', {class: 'rewards'}, el('tbody', {},
    ...terms.map(([name, value]) => el('tr', {},
      el('th', {scope: 'row'}, name),
      el('td', {class: 'bar'}, styled(
        el('span', {class: value < 0 ? 'minus' : 'plus'}),
        {width: `${100 * Math.abs(value ?? 0) / largest}%`})),
      el('td', {}, number(value))))));
}

function pixels(box) {
  return box.map(edge => Math.round(edge)).join(', ');
}

function said(text) {
  return el('pre', {class: 'said'}, ...text.split(MARKS).map((part, i) =>
    i % 2 ? el('span', {class: 'mark'}, part) : part));
}

// Whether a call was wrong; one that the episode had no room for was not.
function isFaulty(turn) {
  return !['NONE', 'OK', 'VALID', 'NO_ROOM'].includes(turn.call_status);
}

function turnCard(turn, k, byTurn) {
  const {quality} = turn;
  const facts = [
    el('b', {}, `Turn ${k + 1}`),
    turn.call_status === 'NONE' ? el('span', {}, 'no call') :
      el('span', {class: isFaulty(turn) ? 'bad' : ''},
         `call: ${turn.call_status.toLowerCase().replaceAll('_', ' ')}`),
    turn.box_shown ? el('span', {}, `wrote ${pixels(turn.box_shown)}`) : null,
    turn.box ? el('span', {}, `cut ${pixels(turn.box)}`) : null,
    quality ? el('span', {}, `IoU ${number(quality.iou)} · covers ${
      percent(quality.coverage)} · ${percent(quality.area, 1)} of the image`)
      : null,
  ];
  const shown = turn.crop_jpeg || turn.observation ? el('div', {class: 'shown'},
    turn.crop_jpeg ? el('figure', {},
      image(turn.crop_jpeg, {alt: `Crop of turn ${k + 1}`}),
      el('figcaption', {}, 'the crop as the policy saw it')) : null,
    turn.observation ? el('p', {class: 'observation'}, turn.observation) : null,
  ) : null;
  return el('li', {
    class: 'turn',
    onpointerenter: () => byTurn.has(k) && highlight(byTurn, k),
    onpointerleave: () => highlight(byTurn, null),
  }, el('header', {}, ...facts), said(turn.text), shown);
}

function verdict(rollout) {
  return el('span', {class: rollout.correct ? 'good' : 'bad'},
    rollout.correct ? '✓ ' : '✗ ', rollout.prediction || 'no answer');
}

function rolloutView(rollout) {
  const boxes = boxLayer(rollout);
  return el('article', {class: 'rollout'},
    el('header', {}, el('strong', {}, rollout.label), verdict(rollout),
       el('small', {}, rollout.stop_reason),
       rollout.advantage == null ? null
         : el('small', {}, `advantage ${number(rollout.advantage)}`)),
    el('div', {class: 'look'}, ...stage(rollout, boxes), legend(rollout),
       rewardTable(rollout)),
    el('ol', {class: 'turns'}, ...rollout.turns.map(
      (turn, k) => turnCard(turn, k, boxes.byTurn))));
}
