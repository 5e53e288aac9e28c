// What JavaScript adds to the page of `collab-notes serve`: keys, and a focus that stays where it was. Without it, everything works by plain forms.
(() => {
  'use strict';
  const rows = () => [...document.querySelectorAll('#live li')];
  const steps = o => o ? [...o.querySelectorAll('.stars button, .steps button')] : [];
  let was = null;

  // `/` goes to the search; in a row, a digit rates, arrows go from step to step, up and down from row to row
  document.addEventListener('keydown', e => {
    if (e.ctrlKey || e.metaKey || e.altKey) return;
    const typing = e.target.matches('input, select, textarea');
    if (e.key === '/' && !typing) { const q = document.getElementById('q'); if (q) { e.preventDefault(); q.focus(); q.select(); } return; }
    if (e.target.id === 'q' && e.key === 'ArrowDown') { const b = steps(document.querySelector('#found li'))[0]; if (b) { e.preventDefault(); b.focus(); } return; }
    if (typing) return;
    const row = e.target.closest('#live li'), own = steps(row);
    if (!row || !own.length) return;
    const at = own.indexOf(e.target);
    if (/^[1-9]$/.test(e.key) || (e.key === '0' && own.length === 10)) {
      const b = own[e.key === '0' ? 9 : +e.key - 1];
      if (b) { e.preventDefault(); b.focus(); b.click(); }
    } else if (at >= 0 && (e.key === 'ArrowRight' || e.key === 'ArrowLeft')) {
      const b = own[at + (e.key === 'ArrowRight' ? 1 : -1)];
      if (b) { e.preventDefault(); b.focus(); }
    } else if (e.key === 'ArrowDown' || e.key === 'ArrowUp') {
      const all = rows().filter(o => steps(o).length), next = all[all.indexOf(row) + (e.key === 'ArrowDown' ? 1 : -1)];
      if (next) { e.preventDefault(); (steps(next)[Math.max(at, 0)] || steps(next)[0]).focus(); }
    }
  });

  // the page is put in anew after each rating: what had the focus, or what stands in its place, gets it again
  const place = o => {
    const list = o.closest('#found, #asked, #mine, .list');
    if (!list) return { name: o.name, value: o.value };
    const part = list.id ? '#' + list.id : '.list';
    return { part, n: [...list.querySelectorAll('li')].indexOf(o.closest('li')), name: o.name, value: o.value };
  };
  document.addEventListener('htmx:beforeSwap', e => {
    const o = document.activeElement;
    was = e.detail.target.matches('#live, .why') && o && o.closest('#live') ? place(o) : null;
  });
  document.addEventListener('htmx:afterSettle', () => {
    if (document.activeElement !== document.body) was = null;   // the reader has gone on
    if (!was) return;
    const same = [...document.querySelectorAll('#live button')].find(o => o.name === was.name && o.value === was.value && (!was.part || o.closest(was.part)));
    const list = was.part && document.querySelector(was.part), li = list ? list.querySelectorAll('li') : [];
    const other = li.length ? li[Math.min(Math.max(was.n, 0), li.length - 1)].querySelector('button') : null;
    const o = same || other;
    was = null;
    if (o) o.focus({ preventScroll: true });
  });
  // what is clicked while an answer is on its way waits for it: htmx would forget it with the form that is replaced
  const waiting = [];
  document.addEventListener('submit', e => {
    const form = e.target, o = e.submitter;
    if (form.id !== 'live' || !form.classList.contains('htmx-request')) return;
    e.preventDefault();
    e.stopImmediatePropagation();
    if (!o) return;
    const typed = o.value.startsWith('? ') && form.elements['y ' + o.value.slice(2)];
    waiting.push([o.name, typed ? typed.value + o.value.slice(1) : o.value]);
  }, true);
  const next = () => {
    const form = document.getElementById('live');
    if (!waiting.length || !form || form.classList.contains('htmx-request')) return;
    const [name, value] = waiting.shift();
    let b = [...form.querySelectorAll('button')].find(o => o.name === name && o.value === value && !o.disabled);
    if (!b) { b = Object.assign(document.createElement('button'), { name, value, type: 'submit', hidden: true }); form.append(b); }
    b.click();
  };
  document.addEventListener('htmx:afterSettle', e => { if (e.target.id === 'live') next(); });
  document.addEventListener('htmx:afterRequest', e => { if (!e.detail.successful) setTimeout(next); });
  // what has been typed while an answer was on its way is looked for again
  document.addEventListener('htmx:afterSettle', e => {
    const q = document.getElementById('q'), state = document.querySelector('#found input[name=state]');
    if (e.target.id !== 'live' || !q || !state) return;
    if ((new URLSearchParams(state.value).get('q') || '') !== q.value) htmx.trigger(q, 'search');
  });
  // an error is told, not swallowed
  document.addEventListener('htmx:responseError', e => tell(e.detail.xhr.getResponseHeader('x-said') || 'That did not work (' + e.detail.xhr.status + '). Reload the page.'));
  document.addEventListener('htmx:sendError', () => tell('The server does not answer. Your ratings so far are kept; try again.'));
  const tell = text => { const o = document.getElementById('status'); if (o) o.textContent = text; };
})();
