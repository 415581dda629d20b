// Brings the part of the page that changes up to date every two seconds. Without this script, reload the page.
// Nothing is replaced while somebody reads it by keyboard or has marked words in it, and nothing is asked in the background.
"use strict";
const EVERY_MS = 2000;
const part = document.querySelector("[data-live]");

function isInUse() {
  const marked = window.getSelection();
  return part.contains(document.activeElement) || (marked && !marked.isCollapsed && part.contains(marked.anchorNode));
}

function button() {
  const found = document.createElement("button");
  found.type = "button";
  found.className = "live";
  found.setAttribute("aria-pressed", "true");
  found.textContent = "Live";
  found.title = "Updates every two seconds; press to hold the page still";
  found.addEventListener("click", () => {
    const goesOn = found.getAttribute("aria-pressed") === "false";
    found.setAttribute("aria-pressed", String(goesOn));
    found.textContent = goesOn ? "Live" : "Held still";
  });
  const head = document.querySelector("main h1");
  head.after(found);
  return found;
}

if (part) {
  const toggle = button();
  let isAsking = false;
  setInterval(async () => {
    if (isAsking || document.hidden || toggle.getAttribute("aria-pressed") === "false" || isInUse()) return;
    isAsking = true;
    try {
      const answer = await fetch(part.dataset.live, { redirect: "error" });
      if (answer.status === 401) location.reload();
      if (answer.ok) {
        const text = await answer.text();
        if (!isInUse() && text.trim() !== part.innerHTML.trim()) part.innerHTML = text;
      }
      toggle.classList.toggle("lost", !answer.ok);
    } catch {
      toggle.classList.add("lost");
    } finally {
      isAsking = false;
    }
  }, EVERY_MS);
}
