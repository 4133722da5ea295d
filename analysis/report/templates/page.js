// Open the list that a link points to.
const open = () => { const target = document.getElementById(decodeURIComponent(location.hash.slice(1))); if (target?.tagName === "DETAILS") target.open = true; };
addEventListener("hashchange", open);
open();
