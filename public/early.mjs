// A click is not lost when it comes before the page's Python runs: the last one, if it was on a button of main.py's table
// of actions, is made again once that is there.

let button = null;
const note = ({ target }) => { button = target.closest('[data-do]'); };

document.addEventListener('click', note);
new MutationObserver((_, observer) => {
  observer.disconnect();
  document.removeEventListener('click', note);
  button?.click();
}).observe(document.body, { attributeFilter: ['data-ui'] }); // main.py sets it when it listens
