// A page opened from a folder may start no worker. This one is a hidden frame, filled by a script
// of the site, so that a strict policy lets it through.
(() => {
  if (location.protocol !== "file:") return;

  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      const inner = frame.contentWindow;
      const load = (address) => new Promise((done) => {
        const script = frame.contentDocument.createElement("script");
        script.src = new URL(address, url);
        script.onload = done;
        frame.contentDocument.body.append(script);
      });
      inner.importScripts = (...addresses) =>
        addresses.reduce((before, next) => before.then(() => load(next)), Promise.resolve());
      inner.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      this.inner = inner;
      this.ready = load(url);
    }
    postMessage(data) {
      this.ready.then(() => this.inner.dispatchEvent(new this.inner.MessageEvent("message", { data })));
    }
  };
})();
