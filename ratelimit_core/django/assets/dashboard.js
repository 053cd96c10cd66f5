// Keeps the page up to date: asks for it anew, and replaces the parts that differ, so that nothing else moves.
"use strict";

(() => {
  const main = document.getElementById("main");
  const every = Number(main.dataset.live);
  if (!every) return;
  const stale = document.getElementById("stale");
  let last = new Date();

  function replaceParts(fresh) {
    const before = document.activeElement && document.activeElement.id;
    const ids = (root) => [...root.querySelectorAll("[data-part]")].map((part) => part.id).join(" ");
    if (ids(main) !== ids(fresh)) {
      if (main.querySelector("form") === null) main.replaceChildren(...fresh.childNodes);
      else location.reload();
    } else {
      for (const part of fresh.querySelectorAll("[data-part]")) {
        const old = document.getElementById(part.id);
        if (old.outerHTML === part.outerHTML) continue;
        const said = old.querySelector("[role=status]");
        const says = part.querySelector("[role=status]");
        if (said && says) { // a screen reader speaks when the text of what it knows changes, not when it is another
          if (said.textContent !== says.textContent) said.textContent = says.textContent;
          says.replaceWith(said);
        }
        old.replaceWith(part);
      }
    }
    if (before && document.activeElement.id !== before) {
      const again = document.getElementById(before);
      if (again) again.focus({ preventScroll: true });
    }
  }

  async function refresh() {
    if (!document.hidden) {
      try {
        const response = await fetch(location.href, { redirect: "error", signal: AbortSignal.timeout(10 * every) });
        if (!response.ok) throw new Error(response.status);
        const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
        replaceParts(fresh.getElementById("main"));
        document.title = fresh.title;
        last = new Date();
        stale.hidden = true;
      } catch {
        stale.querySelector("time").textContent = last.toLocaleTimeString();
        stale.hidden = false;
      }
    }
    setTimeout(refresh, every);
  }

  document.addEventListener("visibilitychange", () => { if (document.hidden) last = new Date(last); });
  setTimeout(refresh, every);
})();
