// The chosen colours, set before the first paint. A classic script in the head for that reason.
(() => {
  let chosen = null;
  try {
    chosen = localStorage.getItem("fastlb-theme");
  } catch {
    // Storage may be barred; then the system's colours are used.
  }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
