// What pages need beyond htmx: local times, copying, the light that says whether the page hears of changes.
"use strict";
(() => {
  const exact = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });
  const two = (number) => String(number).padStart(2, "0");

  function localTimes(root) {
    for (const time of root.querySelectorAll("time[data-local]")) {
      const moment = new Date(time.dateTime);
      if (Number.isNaN(moment.getTime())) continue;
      // The same shape as the server's text, so that nothing moves.
      const text = `${moment.getFullYear()}-${two(moment.getMonth() + 1)}-${two(moment.getDate())} ${two(moment.getHours())}:${two(moment.getMinutes())}`;
      if (time.textContent !== text) time.textContent = text;
      time.title = exact.format(moment) + " (" + time.dateTime + ")";
    }
  }

  function say(kind, text) {
    const line = document.getElementById("live");
    if (!line) return;
    line.dataset.state = kind;
    const said = line.querySelector(".said");
    if (said.textContent !== text) said.textContent = text;
  }

  document.addEventListener("htmx:sse:after:connection", () => say("on", "live"));
  document.addEventListener("htmx:sse:error", () => say("off", "reconnecting"));
  document.addEventListener("htmx:sse:close", () => say("off", "not live"));
  document.addEventListener("htmx:after:swap", () => localTimes(document));
  document.addEventListener("htmx:after:settle", () => localTimes(document));

  document.addEventListener("click", async (event) => {
    const copy = event.target.closest("button[data-copy]");
    if (!copy) return;
    let done = false;
    try {
      await navigator.clipboard.writeText(copy.dataset.copy);
      done = true;
    } catch {
      const range = document.createRange();
      range.selectNodeContents(copy.parentElement.querySelector("code"));
      getSelection().removeAllRanges();
      getSelection().addRange(range);
    }
    copy.textContent = done ? "copied" : "selected";
    setTimeout(() => { copy.textContent = "copy"; }, 1500);
  });

  // Sheets close with Escape and with a click beside them, and one is open at a time.
  const sheets = "details.confirm, details.person, header details.narrow";
  function closeSheets(except) {
    for (const open of document.querySelectorAll(sheets)) if (open !== except && open.open) open.open = false;
  }
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    const open = event.target.closest(sheets);
    closeSheets(null);
    if (open) open.querySelector("summary").focus();
  });
  document.addEventListener("click", (event) => {
    const summary = event.target.closest("summary");
    closeSheets(event.target.closest(sheets) || (summary && summary.parentElement));
  });

  // A form is sent once.
  document.addEventListener("submit", (event) => {
    if (event.defaultPrevented || event.target.method !== "post") return;
    if (event.target.dataset.sent) event.preventDefault();
    event.target.dataset.sent = "yes";
    for (const button of event.target.querySelectorAll("button:not([type=button])")) button.setAttribute("aria-disabled", "true");
  });
  addEventListener("pageshow", () => {
    for (const form of document.querySelectorAll("form[data-sent]")) delete form.dataset.sent;
  });

  // Selects and boxes that change what a list shows take effect at once; the button is for those without scripts.
  document.addEventListener("change", (event) => {
    const form = event.target.closest("form[data-auto]");
    if (form) form.requestSubmit();
  });

  // One box for all boxes of a table.
  document.addEventListener("change", (event) => {
    if (!event.target.matches("input[data-all]")) return;
    const boxes = event.target.closest("form").querySelectorAll("tbody input[type=checkbox]");
    for (const box of boxes) box.checked = event.target.checked;
  });

  // Times that are typed are meant in the reader's own zone, and the field says so.
  for (const zone of document.querySelectorAll("input[data-zone]")) {
    if (!zone.value) zone.value = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
  }

  // A mistake is told beside its field, too: the one that holds what the sentence quotes, or that it begins with.
  function blamed(sentence) {
    const quoted = [...sentence.matchAll(/(?<!\w)'([^']+)'(?!\w)/g)].map((found) => found[1]);
    const begins = sentence.toLowerCase().replace(/^the /, "");
    const typed = (field) => field.value.trim();
    const fields = [...document.querySelectorAll("main form[method=post] :is(input, textarea, select)")].filter(
      (field) => !field.matches("[type=hidden], [type=checkbox], [type=radio], [readonly]") && typed(field) !== "",
    );
    return fields.find((field) => quoted.includes(typed(field)))
      || fields.find((field) => typed(field).split(/[\s,]+/).some((word) => quoted.includes(word)))
      || fields.find((field) => [typed(field).toLowerCase(), field.name.replaceAll("_", " ")].some((said) => begins.startsWith(said + " ") || begins.startsWith(said + ":")));
  }
  for (const banner of document.querySelectorAll("main > .banner.bad[role=alert]")) {
    const field = blamed(banner.textContent.trim());
    if (!field) continue;
    const mistake = document.createElement("p");
    mistake.className = "mistake";
    mistake.id = "mistake-" + field.name;
    mistake.textContent = banner.firstChild.textContent.trim() || banner.textContent.trim();
    field.after(mistake);
    field.setAttribute("aria-invalid", "true");
    field.setAttribute("aria-describedby", [mistake.id, field.getAttribute("aria-describedby")].filter(Boolean).join(" "));
    field.focus();
  }

  localTimes(document);
})();

// What a reader opened stays open when its part of the page is brought up to date.
document.addEventListener("htmx:before:morph:attr", (event) => {
  if (event.detail.attrName === "open" && event.target.matches("details")) event.preventDefault();
});

// The command beside a form says what is chosen in it.
document.addEventListener("change", (event) => {
  const sheet = event.target.closest("[data-line]");
  if (!sheet) return;
  const words = sheet.querySelector("select").value.split(" ");
  const has = (selector) => sheet.querySelector(selector) !== null;
  let line = sheet.dataset.line.replace("{0}", words[0]).replace("{1}", words[1]);
  if (has("select[name=urgency] option[value=gradual]:checked")) line += " --gradual";
  if (has("input[name=forced]:checked")) line += " --force --yes";
  sheet.querySelector(".cli code").textContent = line;
  sheet.querySelector(".cli [data-copy]").dataset.copy = line;
});
