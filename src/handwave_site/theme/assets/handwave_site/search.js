// Material fetches the search index and starts the search's worker with every page. Here both wait
// until somebody searches.
(() => {
  const Worker = window.Worker;

  // Starts with its first message, which Material sends when it has the index.
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.url = new URL(url, location.href);
    }
    postMessage(data) {
      this.worker ||= this.start();
      this.worker.postMessage(data);
    }
    start() {
      const worker = new Worker(this.url);
      worker.addEventListener("message", ({ data }) =>
        this.dispatchEvent(new MessageEvent("message", { data })));
      return worker;
    }
  };

  const { open, send } = XMLHttpRequest.prototype;
  XMLHttpRequest.prototype.open = function (method, url, ...rest) {
    this.isIndex = String(url).endsWith("search/search_index.json");
    return open.call(this, method, url, ...rest);
  };
  XMLHttpRequest.prototype.send = function (...body) {
    if (!this.isIndex) return send.apply(this, body);
    const wait = new AbortController();
    const begin = ({ target }) => {
      if (target.id !== "__search" && target.name !== "query") return;
      wait.abort();
      send.apply(this, body);
    };
    for (const kind of ["change", "focusin"])
      document.addEventListener(kind, begin, { capture: true, signal: wait.signal });
  };
})();
