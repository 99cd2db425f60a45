// A Worker for pages opened from disk, where a browser gives none to the search: its script runs in a
// hidden frame of the page. The theme's search asks for the name IFrameWorker in the page around it.
const message = (data) => new MessageEvent("message", { data: structuredClone(data) });
window.IFrameWorker = class extends EventTarget {
  constructor(url) {
    super();
    this.frame = document.createElement("iframe");
    this.frame.hidden = true;
    document.body.append(this.frame);
    const inner = this.frame.contentWindow;
    const load = (source) =>
      new Promise((resolve, reject) => {
        const script = inner.document.createElement("script");
        script.onload = resolve;
        script.onerror = () => reject(new Error(`${source} could not be read`));
        script.src = source;
        inner.document.body.append(script);
      });
    inner.postMessage = (data) => this.dispatchEvent(message(data));
    inner.importScripts = async (...sources) => {
      for (const source of sources) await load(source);
    };
    this.loaded = load(url);
  }

  async postMessage(data) {
    const event = message(data); // as it is now
    await this.loaded;
    this.frame.contentWindow.dispatchEvent(event);
  }

  terminate() {
    this.frame.remove();
  }
};
if (location.protocol === "file:") window.Worker = window.IFrameWorker;
