//! What every page has around its body.

use core::fmt::Display;

use super::markup::Markup;

const STYLE: &str = "
:root { --paper: #fdfdfc; --ink: #22252a; --soft: #6a7078; --rule: #e4e4e0; --read: #4a7fc1; --convert: #d2913a;
  --place: #4f9a6b; --host: #4a7fc1; --device: #8a68b8; --limit: #b5493a; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181b; --ink: #dcdee0; --soft: #959ba3; --rule: #2c2f34;
  --read: #6d9edb; --convert: #dba75c; --place: #69b686; --host: #6d9edb; --device: #a98ad2; --limit: #d97565; } }
body { margin: 0 auto; padding: 2.5rem 1.5rem 4rem; max-width: 60rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; font-variant-numeric: tabular-nums; }
h1 { margin: 0 0 .2rem; font-size: 1.5rem; font-weight: 600; overflow-wrap: anywhere; }
h2 { margin: 2.6rem 0 .4rem; font-size: 1.05rem; font-weight: 600; }
p { margin: .2rem 0 .8rem; } .note { color: var(--soft); }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: .9rem 1.5rem;
  margin: 1.4rem 0 0; padding: 1rem 0; border: solid var(--rule); border-width: 1px 0; }
dt { color: var(--soft); font-size: .82rem; } dd { margin: 0; overflow-wrap: anywhere; }
svg { display: block; width: 100%; min-width: 40rem; height: auto; overflow: visible; }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
svg .name { font: 10px ui-monospace, monospace; } svg text.peak { fill: var(--ink); font-weight: 600; }
.grid { stroke: var(--rule); stroke-width: 1; } line.limit { stroke: var(--limit); stroke-dasharray: 5 4; }
svg text.limit { fill: var(--limit); } circle.peak { fill: var(--paper); stroke: var(--ink); stroke-width: 1.5; }
.line { fill: none; stroke-width: 1.5; stroke-linejoin: round; } .area { opacity: .14; stroke: none; }
.host.line { stroke: var(--host); } .host.area { fill: var(--host); }
.device.line { stroke: var(--device); } .device.area { fill: var(--device); }
.read { fill: var(--read); } .convert { fill: var(--convert); } .place { fill: var(--place); }
circle.error { fill: var(--host); opacity: .75; }
.key { display: inline-block; width: .8rem; height: .5rem; margin: 0 .4rem 0 0; border-radius: 1px; }
.key.read { background: var(--read); } .key.convert { background: var(--convert); }
.key.place { background: var(--place); }
.key.host { background: var(--host); } .key.device { background: var(--device); } .legend > span { margin-right: 1.3rem; white-space: nowrap; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .82rem; }
th { color: var(--soft); font-weight: 500; text-align: right; } th, td { padding: .22rem .5rem;
  border-bottom: 1px solid var(--rule); white-space: nowrap; } td { text-align: right; }
th:first-child, td:first-child { padding-left: 0; } td:first-child { font: .76rem ui-monospace, monospace; }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; }
";

/// A whole document.
pub(super) fn document(title: impl Display, body: impl FnOnce(&mut Markup)) -> String {
    let mut markup = Markup::default();
    markup.raw("<!DOCTYPE html>\n");
    markup.within("html", &[("lang", &"en")], |markup| {
        markup.within("head", &[], |markup| {
            markup.empty("meta", &[("charset", &"utf-8")]);
            let fits = "width=device-width, initial-scale=1";
            markup.empty("meta", &[("name", &"viewport"), ("content", &fits)]);
            markup.element("title", &[], format_args!("{title} · firebox"));
            markup.within("style", &[], |markup| markup.raw(STYLE));
        });
        markup.newline();
        markup.within("body", &[], body);
    });
    markup.newline();
    markup.into_string()
}
