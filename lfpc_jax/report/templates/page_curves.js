// Learning curves: a small chart per quantity, drawn when it comes into view.

const FRAME = {width: 320, height: 150, left: 38, right: 6, top: 8, bottom: 18};

// An exponential moving average, unbiased at its start.
function smoothed(values, weight) {
  let total = 0, norm = 0;
  return values.map(value => {
    if (value == null) return null;
    total = weight * total + (1 - weight) * value;
    norm = weight * norm + (1 - weight);
    return total / norm;
  });
}

// About `count` round numbers that span [low, high].
function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(k => k * power).find(s => s >= rough);
  const first = Math.ceil(low / step - 1e-9), marks = [];
  for (let k = first; k * step <= high + step * 1e-9; k++) marks.push(k * step);
  return marks;
}

function extent(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) if (value != null) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  if (low > high) return [0, 1];
  const room = (high - low) * .05 || Math.abs(low) * .1 || 1;
  return [low - room, high + room];
}

function linePath(steps, values, x, y) {
  let path = '', pen = 'M';
  steps.forEach((step, i) => {
    if (values[i] == null) pen = 'M';
    else {
      path += `${pen}${x(step).toFixed(1)} ${y(values[i]).toFixed(1)}`;
      pen = 'L';
    }
  });
  return path;
}

function chartScales(runs) {
  const steps = runs.flatMap(run => run.steps);
  const first = steps.reduce((a, b) => Math.min(a, b), Infinity);
  const last = steps.reduce((a, b) => Math.max(a, b), -Infinity);
  const [low, high] = extent(runs.flatMap(run => run.values));
  const {width, height, left, right, top, bottom} = FRAME;
  const wide = width - left - right, tall = height - top - bottom;
  return {
    first, last, low, high,
    x: step => left + wide * (step - first) / (last - first || 1),
    y: value => top + tall * (high - value) / (high - low),
  };
}

function chartAxes({first, last, low, high, x, y}) {
  const {width, height, left, right} = FRAME;
  const rows = ticks(low, high, 4).flatMap(mark => [
    svg('line', {class: 'grid', x1: left, x2: width - right, y1: y(mark),
                 y2: y(mark)}),
    svg('text', {x: left - 5, y: y(mark) + 3, 'text-anchor': 'end'},
        significant(mark)),
  ]);
  const columns = [...new Set([first, last])].map(step => svg('text', {
    x: x(step), y: height - 4, 'text-anchor': step === first ? 'start' : 'end',
  }, `${step === first ? 'step ' : ''}${step}`));
  return [...rows, ...columns];
}

function nearest(steps, step) {
  let best = 0;
  steps.forEach((other, i) => {
    if (Math.abs(other - step) < Math.abs(steps[best] - step)) best = i;
  });
  return best;
}

function drawChart(figure, chart, weight, hidden) {
  const runs = chart.runs.filter(run => !hidden.has(run.run));
  const readout = el('div', {class: 'readout'});
  const caption = el('figcaption', {}, chart.quantity);
  if (!runs.length) return figure.replaceChildren(caption, readout);
  const scales = chartScales(runs);
  const cursor = svg('line', {class: 'cursor', y1: FRAME.top,
                              y2: FRAME.height - FRAME.bottom});
  const averages = runs.map(run => smoothed(run.values, weight));
  const paths = runs.flatMap((run, i) => [
    weight ? svg('path', {class: 'raw',
      d: linePath(run.steps, run.values, scales.x, scales.y)}) : null,
    svg('path', {d: linePath(run.steps, averages[i], scales.x, scales.y)}),
  ].filter(Boolean).map(path => styled(path, {'--colour': run.colour})));
  const read = step => readout.replaceChildren(
    step == null ? '' : el('small', {}, `step ${step}`),
    ...runs.map((run, i) => {
      const at = step == null ? run.steps.length - 1 : nearest(run.steps, step);
      return styled(el('span', {title: run.run}, significant(averages[i][at])),
                    {'--colour': run.colour});
    }));
  const picture = svg('svg', {
    viewBox: `0 0 ${FRAME.width} ${FRAME.height}`, role: 'img',
    'aria-label': `${chart.quantity} over steps`,
    onpointermove: event => {
      const box = picture.getBoundingClientRect();
      const at = (event.clientX - box.left) / box.width * FRAME.width;
      const steps = runs.reduce((a, b) =>
        a.steps.length >= b.steps.length ? a : b).steps;
      const share = (at - FRAME.left) /
        (FRAME.width - FRAME.left - FRAME.right);
      const step = steps[nearest(
        steps, scales.first + share * (scales.last - scales.first))];
      cursor.setAttribute('x1', scales.x(step));
      cursor.setAttribute('x2', scales.x(step));
      picture.append(cursor);
      read(step);
    },
    onpointerleave: () => { cursor.remove(); read(null); },
  }, ...chartAxes(scales), ...paths);
  read(null);
  figure.replaceChildren(caption, readout, picture);
}

function setUpCurves() {
  const grid = document.getElementById('curve-grid');
  if (!grid) return;
  const names = [...new Set(DATA.curves.flatMap(
    chart => chart.runs.map(run => run.run)))];
  for (const chart of DATA.curves)
    for (const run of chart.runs)
      run.colour = `var(--run-${names.indexOf(run.run) % 6})`;
  const hidden = new Set(), figures = new Map(), visible = new Set();
  let weight = .6;
  const draw = figure => drawChart(figure, figures.get(figure), weight, hidden);
  const redraw = () => visible.forEach(draw);
  const watcher = new IntersectionObserver(entries => {
    for (const {target, isIntersecting} of entries) {
      if (!isIntersecting) { visible.delete(target); continue; }
      visible.add(target);
      draw(target);
    }
  }, {rootMargin: '400px'});
  for (const chart of DATA.curves) {
    const figure = el('figure', {class: 'chart'});
    figures.set(figure, chart);
    grid.append(figure);
    watcher.observe(figure);
  }
  setUpCurveControls(names, hidden, figures, redraw, value => {
    weight = value;
    redraw();
  });
  if (figures.size > 8) foldCurves(grid, figures.size);
}

// On a phone a screen holds few charts; the rollouts come after all of them.
function foldCurves(grid, count) {
  grid.classList.add('folded');
  grid.after(el('button', {
    type: 'button', id: 'all-curves',
    onclick: () => grid.classList.remove('folded'),
  }, `Show all ${count} curves`));
}

function setUpCurveControls(names, hidden, figures, redraw, setWeight) {
  const grid = document.getElementById('curve-grid');
  const runs = names.map((name, i) => el('label', {class: 'run'},
    el('input', {type: 'checkbox', checked: true, onchange: event => {
      event.target.checked ? hidden.delete(name) : hidden.add(name);
      redraw();
    }}),
    styled(el('span', {class: 'swatch'}), {'--colour': `var(--run-${i % 6})`}),
    name));
  const smoothing = el('label', {}, 'smoothing', el('input', {
    type: 'range', min: 0, max: .95, step: .05, value: .6,
    oninput: event => setWeight(Number(event.target.value))}));
  const search = el('input', {
    type: 'search', placeholder: 'Find a quantity', 'aria-label':
    'Find a quantity', oninput: event => {
      const text = event.target.value.toLowerCase();
      grid.classList.remove('folded');
      for (const [figure, chart] of figures)
        figure.hidden = !chart.quantity.toLowerCase().includes(text);
    }});
  document.getElementById('curve-controls').append(
    ...runs, smoothing, figures.size > 8 ? search : '');
}
setUpCurves();
