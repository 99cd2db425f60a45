// What happens when the page opens.

startTable();
startParallel();
startSamples();
startCurves().then(() => {
  document.body.dataset.drawnMs = Math.round(performance.now()); // since the navigation began
});
