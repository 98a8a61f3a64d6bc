// Airflow shows this page in a frame whose sandbox forbids links to leave it: a form opens in the window around it.
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-leave]");
  if (!link || parent === window || event.button || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  const outer = parent.document.createElement("a");
  outer.href = link.href;
  parent.document.body.append(outer);
  outer.click();
  outer.remove();
});
