/**
 * Light or dark: the system's choice until the person makes one. A classic script, so that it runs
 * before the first paint.
 */
(() => {
  const KEY = "atelier.theme";
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const chosen = () => {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null; // storage may be switched off; then the system's choice holds
    }
  };
  const apply = () => {
    root.dataset.theme = chosen() ?? (system.matches ? "dark" : "light");
  };
  apply();
  system.addEventListener("change", apply);
  document.addEventListener("click", (event) => {
    if (!event.target.closest?.("[data-action=theme]")) return;
    const next = root.dataset.theme === "dark" ? "light" : "dark";
    try {
      localStorage.setItem(KEY, next);
      apply();
    } catch {
      root.dataset.theme = next;
    }
  });
})();
