// Runs before the first paint, so that a chosen theme does not flash. "auto" follows the system.
const THEMES = ["auto", "light", "dark"];

function savedTheme() {
  try {
    const saved = localStorage.getItem("clipvip-theme");
    return THEMES.includes(saved) ? saved : "auto";
  } catch {
    return "auto"; // storage may be forbidden
  }
}

document.documentElement.dataset.theme = savedTheme();

document.addEventListener("DOMContentLoaded", () => {
  const button = document.getElementById("theme");
  const show = (theme) => {
    document.documentElement.dataset.theme = theme;
    button.title = `Theme: ${theme}`;
    button.setAttribute("aria-label", `Theme: ${theme}. Change it`);
    button.querySelector("use").setAttribute("href", `#i-theme-${theme}`);
  };
  show(savedTheme());
  button.addEventListener("click", () => {
    const theme = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length];
    show(theme);
    try {
      localStorage.setItem("clipvip-theme", theme);
    } catch {
      // it then lasts until the page is left
    }
  });
});
