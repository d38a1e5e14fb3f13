element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-like]");
  if (button) trigger("like", { key: button.dataset.like });
});
// Files that this browser does not play are cut and encoded for it.
element.addEventListener(
  "error",
  (event) => {
    const video = event.target;
    const original = video.getAttribute?.("src");
    if (!original?.includes("/video#")) return;
    video.src = original.replace(/\/video#.*/, "/cut");
    if (video.dataset.wanted) video.play().catch(() => {});
  },
  true,
);
element.addEventListener("play", (event) => (event.target.dataset.wanted = "1"), true);
watch("value", () => {
  const link = element.querySelector("[data-link]")?.dataset.link;
  if (link && link !== location.search) history.pushState(null, "", link);
});
window.addEventListener("popstate", () => location.reload());
