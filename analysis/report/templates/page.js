// A link to a closed list opens it.
const open = () => { const target = document.getElementById(decodeURIComponent(location.hash.slice(1))); if (target?.tagName === "DETAILS") target.open = true; };
addEventListener("hashchange", open);
open();
