// Keeps a click that comes before the page's Python runs: the last click on a button of main.py's table of actions is repeated
// when Python is ready.

let button = null;
const note = ({ target }) => { button = target.closest('[data-do]'); };

document.addEventListener('click', note);
new MutationObserver((_, observer) => {
  observer.disconnect();
  document.removeEventListener('click', note);
  button?.click();
}).observe(document.body, { attributeFilter: ['data-ui'] }); // main.py sets it when it listens
