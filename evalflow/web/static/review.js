// What makes the review page quicker: keys, autosave, and an answer that outlives a server that is gone.
// Everything here also works as plain links and forms; nothing that traces say is ever made into markup.
"use strict";

(() => {
  const root = document.documentElement;
  root.classList.add("scripted");
  const store = {
    get(key) {
      try { return JSON.parse(localStorage.getItem(key)); } catch { return null; }
    },
    set(key, value) {
      try { localStorage.setItem(key, JSON.stringify(value)); return true; } catch { return false; }
    },
    drop(key) {
      try { localStorage.removeItem(key); } catch { /* no storage: nothing to drop */ }
    },
    keys(prefix) {
      try { return Object.keys(localStorage).filter((key) => key.startsWith(prefix)); } catch { return []; }
    },
  };

  // -- keys ---------------------------------------------------------------------------------------------------

  const KEYS_OFF = "evalflow:keys-off";
  const isField = (node) =>
    node instanceof HTMLTextAreaElement || node instanceof HTMLSelectElement ||
    (node instanceof HTMLInputElement && !["radio", "checkbox", "submit", "button"].includes(node.type));

  function press(node) {
    if (node.dataset.dialog) {
      openDialog(node.dataset.dialog);
    } else if (node instanceof HTMLInputElement && node.type === "radio") {
      const none = node.name === "severity" && node.checked && node.form.querySelector('[name="severity"][value=""]');
      (none || node).click(); // the same severity again takes it back
    } else if (isField(node)) {
      node.focus();
      node.scrollIntoView({ block: "center" });
    } else {
      node.click();
    }
  }

  function openDialog(id) {
    const dialog = document.getElementById(id);
    if (dialog && !dialog.open) dialog.showModal();
  }

  function moveInList(step) {
    const links = [...document.querySelectorAll(".row-link")];
    if (!links.length) return false;
    const at = links.indexOf(document.activeElement);
    links[Math.min(links.length - 1, Math.max(0, at < 0 ? (step > 0 ? 0 : links.length - 1) : at + step))].focus();
    return true;
  }

  document.addEventListener("keydown", (event) => {
    if (event.isComposing || event.defaultPrevented || document.querySelector("dialog[open]")) return;
    const active = document.activeElement;
    const enter = document.querySelector("[data-enter]");
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      if (enter) { event.preventDefault(); enter.click(); }
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (isField(active)) {
      if (event.key === "Escape") active.blur();
      return;
    }
    if (event.key === "Enter") {
      const isFree = active === document.body || active === null || (active instanceof HTMLInputElement && active.form?.id === "answer");
      if (enter && isFree) { event.preventDefault(); enter.click(); }
      return;
    }
    if (store.get(KEYS_OFF)) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : "";
    if (key === "d" && document.querySelector(".duplicate")) {
      event.preventDefault();
      document.querySelector('[name="verdict"][value="duplicate"]').click();
      document.querySelector('[name="near"], [name="duplicate_of"]').focus();
      return;
    }
    const target = key && document.querySelector(`[data-key="${CSS.escape(key)}"]`);
    if (target) {
      event.preventDefault();
      press(target);
    } else if ((key === "j" || key === "k") && moveInList(key === "j" ? 1 : -1)) {
      event.preventDefault();
    }
  });

  for (const link of document.querySelectorAll("[data-dialog]")) {
    link.addEventListener("click", (event) => { event.preventDefault(); openDialog(link.dataset.dialog); });
  }
  for (const toggle of document.querySelectorAll("[data-toggle-keys]")) {
    const show = () => {
      const isOff = Boolean(store.get(KEYS_OFF));
      toggle.setAttribute("aria-pressed", String(isOff));
      toggle.textContent = isOff ? "Turn the one-letter keys on" : "Turn the one-letter keys off";
    };
    toggle.addEventListener("click", () => { store.set(KEYS_OFF, !store.get(KEYS_OFF)); show(); });
    show();
  }
  for (const form of document.querySelectorAll("[data-autosubmit]")) {
    form.addEventListener("change", (event) => { if (event.target.type !== "search") form.requestSubmit(); });
  }

  // -- one answer ---------------------------------------------------------------------------------------------

  const form = document.getElementById("answer");
  const FIELDS = ["verdict", "severity", "expected_output", "open_codes", "tags", "duplicate_of", "comment"];
  const RETRY_MS = [1000, 2000, 4000, 8000];
  const DEBOUNCE_MS = 500;
  const { csrf, reviewer, home } = document.body.dataset;

  async function post(path, body) {
    // Redirects are followed by us, not by fetch: the page that comes next is loaded as a page.
    const response = await fetch(path, {
      method: "POST",
      body: new URLSearchParams(body),
      headers: { Accept: "application/json" },
      credentials: "same-origin",
      cache: "no-store",
      signal: AbortSignal.timeout(10000),
    });
    let said = {};
    try { said = await response.json(); } catch { /* a page of a proxy, or a refusal */ }
    return { ok: response.ok, status: response.status, said };
  }

  // One browser may hold answers of several people, and of several homes under one address.
  const drafts = `evalflow:draft:${home}:${reviewer}:`;
  const outbox = `evalflow:answer:${home}:${reviewer}:`;

  // Answers that a page could not hand in before it was closed: sent by the next page that reaches the server.
  async function sendOutbox() {
    for (const key of store.keys(outbox)) {
      const kept = store.get(key);
      if (!kept || (form && kept.item === form.dataset.item)) continue;
      try {
        const { ok, status } = await post("/answer", { ...kept.body, csrf });
        if (ok) {
          store.drop(drafts + kept.item);
        } else if (status === 422) {
          store.set(drafts + kept.item, { fields: kept.body, base: -1 }); // offered when the trace is opened again
        }
        if (ok || status === 422) store.drop(key);
      } catch { return; }
    }
  }
  if (csrf && reviewer) sendOutbox();
  if (!form) return;

  const draftKey = drafts + form.dataset.item;
  const answerKey = outbox + form.dataset.item;
  const line = form.querySelector("[data-save-state]");
  const problem = form.querySelector("[data-problem]");
  let revision = Number(form.dataset.revision);
  let timer = 0;
  let attempt = 0;
  let isSending = false;
  let isHandingIn = false;
  let isAsking = false;
  let tried = []; // sent without a reply: the server may hold one of these
  let lastSign = Date.now();

  const fields = () => {
    const data = new FormData(form);
    return Object.fromEntries(FIELDS.map((field) => [field, String(data.get(field) ?? "")]));
  };
  const say = (state, text) => { line.dataset.state = state; line.textContent = text; };
  const answer = () => ({
    item: form.dataset.item,
    body: Object.fromEntries([...new FormData(form)].filter(([field]) => field !== "csrf")),
  });
  const same = (a, b) => FIELDS.every((field) => (a[field] ?? "") === (b[field] ?? ""));
  const clock = () => new Date().toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
  let handed = fields(); // what the server holds

  function fill(values) {
    for (const field of FIELDS) {
      const nodes = form.elements[field];
      if (nodes instanceof RadioNodeList) {
        for (const node of nodes) node.checked = node.value === (values[field] ?? "");
      } else if (nodes) {
        nodes.value = values[field] ?? "";
      }
    }
  }

  function unsaved(status) {
    if (status === 401 || status === 403 || status === 409) {
      say("unsaved", "Not saved yet: this page is too old, or the name was changed. Your text is kept in this browser; reload the page.");
    } else if (status >= 500) {
      say("unsaved", "Not saved yet: the server cannot write it, its terminal says why; your text is kept in this browser.");
    } else {
      say("unsaved", "Not saved yet: the server does not answer; your text is kept in this browser.");
    }
  }

  function retry(action) {
    clearTimeout(timer);
    timer = setTimeout(action, RETRY_MS[Math.min(attempt, RETRY_MS.length - 1)]);
    attempt += 1;
  }

  async function save() {
    if (isSending || isHandingIn || isAsking) return;
    const now = fields();
    if (same(now, handed)) return;
    isSending = true;
    let status = 0;
    try {
      const reply = await post("/draft", { ...now, csrf, reviewer, item: form.dataset.item, base: revision });
      status = reply.status;
      const { other } = reply.said;
      if (other && tried.some((sent) => same(sent, other))) {
        revision = reply.said.revision; // our own text of before, whose reply was lost
        handed = other;
      } else if (other) {
        isSending = false;
        ask(other, reply.said.revision);
        return;
      } else if (reply.ok) {
        revision = reply.said.revision;
        tried = [];
        handed = now;
        attempt = 0;
        if (same(fields(), now)) {
          store.drop(draftKey);
          say("saved", `Draft saved ${clock()}`);
        } else {
          store.set(draftKey, { fields: fields(), base: revision });
        }
      }
    } catch { // the server is gone: kept here, tried again
      if (!tried.some((sent) => same(sent, now))) tried.push(now);
    }
    isSending = false;
    if (isHandingIn) return;
    if (!same(fields(), handed)) {
      if (status < 200 || status >= 300) unsaved(status);
      retry(save);
    }
  }

  // Which of two versions is meant; until that is said, neither takes the other's place.
  function offer(why, use, discard) {
    const conflict = form.querySelector("[data-conflict]");
    conflict.querySelector("[data-why]").textContent = why;
    conflict.querySelector("[data-use]").onclick = () => { conflict.hidden = true; use(); };
    conflict.querySelector("[data-discard]").onclick = () => { conflict.hidden = true; discard(); };
    conflict.hidden = false;
  }

  function ask(other, otherRevision) {
    isAsking = true;
    const settle = () => { isAsking = false; revision = otherRevision; handed = other; };
    say("unsaved", "Not saved: another window holds a different text. Yours is kept in this browser.");
    offer(
      "Another window of yours has saved a different answer to this trace.",
      () => { settle(); fill(other); store.drop(draftKey); say("saved", "Draft of the other window"); },
      () => { settle(); changed(); },
    );
  }

  function changed() {
    lastSign = Date.now();
    problem.hidden = true;
    // At once into the browser: it may be closed before the server has answered.
    const isKept = store.set(draftKey, { fields: fields(), base: revision });
    if (isHandingIn) { store.set(answerKey, answer()); return; }
    if (line.dataset.state !== "unsaved") say("", isKept ? "Saving…" : "Saving… (this browser keeps no copy)");
    clearTimeout(timer);
    timer = setTimeout(save, DEBOUNCE_MS);
  }
  form.addEventListener("input", changed);
  form.addEventListener("change", (event) => {
    if (event.target.matches("[data-case]")) form.elements.duplicate_of.value = event.target.value;
    changed();
  });
  for (const button of form.querySelectorAll("[data-code]")) {
    button.addEventListener("click", () => {
      const area = form.elements.open_codes;
      const lines = area.value.split("\n").filter((text) => text.trim());
      if (!lines.includes(button.dataset.code)) area.value = [...lines, button.dataset.code].join("\n");
      changed();
    });
  }

  // -- handing in ---------------------------------------------------------------------------------------------

  async function handIn() {
    const kept = store.get(answerKey);
    if (!kept) { isHandingIn = false; return; }
    let status = 0;
    try {
      const reply = await post("/answer", { ...kept.body, csrf });
      status = reply.status;
      if (reply.ok) {
        if (!same(kept.body, fields())) return void handIn(); // written on while it was under way
        store.drop(answerKey);
        store.drop(draftKey);
        location.assign(reply.said.go || "/");
        return;
      }
      if ([404, 409, 413, 422].includes(status)) {
        store.drop(answerKey);
        isHandingIn = false;
        handed = {};
        problem.textContent = reply.said.problem || "The server does not take this answer.";
        problem.hidden = false;
        problem.scrollIntoView({ block: "center" });
        say("", "");
        save();
        return;
      }
    } catch { /* the server is gone: kept here, tried again */ }
    unsaved(status);
    retry(handIn);
  }

  form.addEventListener("submit", (event) => {
    if (event.submitter?.hasAttribute("data-skip")) return;
    event.preventDefault();
    if (!form.querySelector('[name="verdict"]:checked')) {
      problem.textContent = "Choose a verdict first: keys 1 to 4.";
      problem.hidden = false;
      form.querySelector('[name="verdict"]').focus();
      return;
    }
    clearTimeout(timer);
    if (!store.set(answerKey, answer())) {
      form.submit(); // no storage in this browser: as without scripts
      return;
    }
    isHandingIn = true;
    attempt = 0;
    say("", "Saving…");
    handIn();
  });

  // -- what this browser held back ------------------------------------------------------------------------------

  const waiting = store.get(answerKey);
  const held = store.get(draftKey);
  if (waiting) {
    fill(waiting.body);
    isHandingIn = true;
    say("", "Saving…");
    handIn();
  } else if (held && same(held.fields, handed)) {
    store.drop(draftKey);
  } else if (held && held.base === revision) {
    fill(held.fields);
    say("", "Your text of before is back. Saving…");
    save();
  } else if (held) {
    offer(
      "This browser holds another version of your answer that was never sent.",
      () => { fill(held.fields); changed(); },
      () => { store.drop(draftKey); },
    );
  }
  addEventListener("online", () => { if (isHandingIn) handIn(); else save(); });
  document.addEventListener("visibilitychange", () => { if (document.visibilityState === "hidden") save(); });

  // An open trace stays reserved while somebody works on it.
  for (const kind of ["keydown", "pointerdown", "scroll"]) addEventListener(kind, () => { lastSign = Date.now(); }, { passive: true });
  setInterval(() => {
    if (document.visibilityState === "visible" && Date.now() - lastSign < 120000) {
      post("/hold", { csrf, reviewer, item: form.dataset.item }).catch(() => {});
    }
  }, 60000);
})();
