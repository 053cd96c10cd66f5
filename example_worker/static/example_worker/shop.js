// Shows the answer of /state/ once a second, and submits the forms without leaving the page.

const EVERY = 1000; // ms
const at = (id) => document.getElementById(id);

function set(element, text) {
  if (element.textContent !== text) element.textContent = text; // so that screen readers read only changes
}

function word(id, value) {
  set(at(id), value.replace("_", "-"));
  at(id).dataset.word = value;
}

const seconds = (wait) => (wait < 10 ? wait.toFixed(1) : wait.toFixed(0)) + " s";

function showBreaker(breaker) {
  word("breaker", breaker.state);
  const details = [];
  if (breaker.error) details.push("the store does not answer");
  if (breaker.mode && breaker.mode !== "automatic") details.push(breaker.mode.replace("_", " ") + " by an operator");
  if (breaker.state === "closed") details.push(`${breaker.failures} of ${breaker.threshold} failures`);
  if (breaker.state === "half_open") details.push("one probe in the whole fleet");
  if (breaker.probe_in !== null && breaker.probe_in !== undefined) {
    details.push(breaker.probe_in > 0 ? `next probe in ${seconds(breaker.probe_in)}` : "next call is a probe");
  }
  set(at("breaker-detail"), details.join(", "));
}

function showService(service) {
  word("service", service.mode);
  const known = service.mode !== "unknown";
  set(at("service-detail"), known ? `${service.last_second} calls in the last second, ${service.calls} in all` : "");
  for (const button of document.querySelectorAll("[name=mode]")) {
    button.ariaDisabled = String(button.value === service.mode); // not `disabled`, which would lose the focus
  }
}

function cell(text, className) {
  const made = document.createElement("td");
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

function told({ state, why, wait, age }) {
  if (state === "charged") return `after ${seconds(age)}`;
  if (state !== "waiting") return why;
  return `${why}; ${wait > 0 ? `again in ${seconds(wait)}` : "due now"}`;
}

function row(order) {
  const made = document.createElement("tr");
  made.dataset.word = order.state;
  made.append(
    cell(order.id.slice(0, 8)),
    cell(order.customer),
    cell(order.amount, "number"),
    cell(order.state, "state"),
    cell(told(order), "why"),
  );
  return made;
}

function showOrders(counts, orders) {
  for (const [state, number] of Object.entries(counts)) {
    set(at("count-" + state), String(number));
    at("bar").querySelector(`[data-word=${state}]`).style.flexGrow = number;
  }
  if (orders.length) at("orders").replaceChildren(...orders.map(row));
}

function show(state) {
  showBreaker(state.breaker);
  showService(state.service);
  showOrders(state.counts, state.orders);
  set(at("process"), String(state.process));
}

let asking = false;

async function refresh() {
  if (asking || document.hidden) return;
  asking = true;
  try {
    const reply = await fetch(document.body.dataset.state, { signal: AbortSignal.timeout(5000) });
    if (!reply.ok) throw new Error(`the site answered ${reply.status}`);
    show(await reply.json());
    at("away").hidden = true;
  } catch (error) {
    set(at("away"), `The site does not answer (${error.message}). Trying again.`);
    at("away").hidden = false;
  } finally {
    asking = false;
  }
}

async function send(event) {
  event.preventDefault();
  if (event.submitter?.ariaDisabled === "true") return;
  const form = event.target;
  const body = new FormData(form, event.submitter);
  try {
    const reply = await fetch(form.action, { method: "POST", body, headers: { Accept: "application/json" } });
    if (!reply.ok) throw new Error(`the site answered ${reply.status}`);
  } catch (error) {
    set(at("away"), `The change was not made (${error.message}).`);
    at("away").hidden = false;
    return;
  }
  refresh();
}

async function ask(event) {
  const { ask: address, times } = event.target.dataset;
  const began = performance.now();
  const replies = await Promise.all(Array.from({ length: Number(times) }, () => fetch(address))).catch(() => []);
  const took = Math.round(performance.now() - began);
  const numbers = new Map();
  for (const { status } of replies) numbers.set(status, (numbers.get(status) ?? 0) + 1);
  const statuses = [...numbers].sort().map(([status, number]) => (number > 1 ? `${number} × ${status}` : status));
  const waits = replies.map((reply) => reply.headers.get("Retry-After")).filter(Boolean);
  const wait = waits.length ? `; Retry-After: ${waits.at(-1)}` : "";
  set(at("answer"), replies.length ? `${statuses.join(", ")} in ${took} ms${wait}` : "no answer");
}

for (const form of document.forms) form.addEventListener("submit", send);
for (const button of document.querySelectorAll("[data-ask]")) button.addEventListener("click", ask);
document.addEventListener("visibilitychange", refresh);
show(JSON.parse(at("state").textContent));
setInterval(refresh, EVERY);
