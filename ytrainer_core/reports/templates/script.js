"use strict";
(() => {
  // The reports read well without this script; it adds what a mouse, a finger and paper need.
  const readout = document.getElementById("readout");
  const show = (event) => {
    const token = event.target.closest(".heat i[title]");
    if (token) {
      readout.textContent = "“" + token.textContent.trim() + "”  " + token.title;
      readout.hidden = false;
    }
  };
  if (readout) {
    document.addEventListener("pointerover", show);
    document.addEventListener("click", show);
  }
  addEventListener("beforeprint", () => {
    for (const fold of document.querySelectorAll("details")) fold.open = true;
  });
})();
