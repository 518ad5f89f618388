// Material fetches the search index and starts the search's worker with every page. Here both wait
// until somebody searches; and a page opened from a folder, where no worker may start, gets one.
(() => {
  // A page of its own that runs the worker's script, for file:// alone.
  class FrameWorker extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      const inner = frame.contentWindow;
      const load = (address) => new Promise((done) => {
        const script = frame.contentDocument.createElement("script");
        script.src = address;
        script.onload = done;
        frame.contentDocument.body.append(script);
      });
      inner.importScripts = (...urls) =>
        urls.reduce((before, next) => before.then(() => load(new URL(next, url))), Promise.resolve());
      inner.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      const ready = load(url);
      this.postMessage = (data) =>
        ready.then(() => inner.dispatchEvent(new inner.MessageEvent("message", { data })));
    }
  }

  const Worker = location.protocol === "file:" ? FrameWorker : window.Worker;

  // Starts with its first message, which Material sends when it has the index.
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.url = new URL(url, location.href);
    }
    postMessage(data) {
      if (!this.worker) {
        this.worker = new Worker(this.url);
        for (const kind of ["message", "error"])
          this.worker.addEventListener(kind, (event) =>
            this.dispatchEvent(new MessageEvent(kind, { data: event.data })));
      }
      this.worker.postMessage(data);
    }
  };

  const send = XMLHttpRequest.prototype.send;
  const open = XMLHttpRequest.prototype.open;
  XMLHttpRequest.prototype.open = function (method, url, ...rest) {
    this.waits = String(url).endsWith("search/search_index.json");
    return open.call(this, method, url, ...rest);
  };
  XMLHttpRequest.prototype.send = function (...body) {
    const now = () => send.apply(this, body);
    if (!this.waits) return now();
    const begin = () => {
      for (const kind of ["change", "focusin"]) document.removeEventListener(kind, wanted, true);
      now();
    };
    const wanted = (event) => {
      if (event.target.id === "__search" || event.target.name === "query") begin();
    };
    for (const kind of ["change", "focusin"]) document.addEventListener(kind, wanted, true);
  };
})();
