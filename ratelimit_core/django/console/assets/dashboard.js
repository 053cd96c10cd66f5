// Refreshes the page: fetches it again, and changes in place only the nodes that differ, so that nothing else moves.
"use strict";

(() => {
  const main = document.getElementById("main");
  const every = Number(main.dataset.live);
  if (!every) return;
  const stale = document.getElementById("stale");
  let timer;

  // Makes `old` like `fresh`. Nodes that are equal in both are kept, and with them the focus, the scroll position, the
  // selection, and what a screen reader has read. Nodes marked `data-keep` stay, because a user may be typing there.
  function morph(old, fresh) {
    if (old.isEqualNode(fresh) || (old.nodeType === Node.ELEMENT_NODE && "keep" in old.dataset)) return;
    if (old.nodeType !== Node.ELEMENT_NODE) {
      old.data = fresh.data;
      return;
    }
    for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
    for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    const known = new Map([...old.children].filter((child) => child.id).map((child) => [child.id, child]));
    let at = old.firstChild;
    for (const next of [...fresh.childNodes]) {
      const alike = at && !at.id && at.nodeName === next.nodeName ? at : undefined;
      const same = next.id ? known.get(next.id) : alike;
      if (same && same === at) at = at.nextSibling;
      else old.insertBefore(same || next, at);
      if (same) morph(same, next);
    }
    while (at) {
      const gone = at;
      at = at.nextSibling;
      gone.remove();
    }
  }

  async function refresh() {
    if (!document.hidden) {
      try {
        const response = await fetch(location.href, { redirect: "error", signal: AbortSignal.timeout(10 * every) });
        if (!response.ok) throw new Error(response.status);
        const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
        const focused = document.activeElement.id;
        morph(main, fresh.getElementById("main"));
        if (focused && document.activeElement.id !== focused) { // the focused node was moved
          document.getElementById(focused)?.focus({ preventScroll: true });
        }
        document.title = fresh.title;
        stale.hidden = true;
      } catch {
        if (stale.hidden) { // a screen reader reads an alert once
          stale.querySelector("time").textContent = main.dataset.now;
          stale.hidden = false;
        }
      }
    }
    clearTimeout(timer);
    timer = setTimeout(refresh, every);
  }

  document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
  timer = setTimeout(refresh, every);
})();
