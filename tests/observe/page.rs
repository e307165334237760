//! The page: sound, self-contained, complete, and with the report's numbers in its pictures.

use std::{fs, ops::RangeInclusive};

use firebox::{
    DType,
    model::CausalLm,
    quant::kernels::compare::Stats,
    report::{LoadReport, TensorReport},
};
use roxmltree::{Document, Node, ParsingOptions};
use serde_json::Value;
use tempfile::TempDir;

use crate::{loader, tinyrust};

fn report() -> LoadReport {
    // Nothing stays as it is stored, so that every tensor is converted.
    let config = tinyrust("nf4").dtype(DType::F32);
    loader(config).load::<CausalLm>().unwrap().report
}

fn parse(page: &str) -> Document<'_> {
    let options = ParsingOptions {
        allow_dtd: true,
        ..ParsingOptions::default()
    };
    Document::parse_with_options(page, options).unwrap()
}

fn named<'a>(page: &'a Document<'_>, name: &str) -> Vec<Node<'a, 'a>> {
    let all = page.descendants();
    all.filter(|node| node.has_tag_name(name)).collect()
}

fn of_class<'a>(page: &'a Document<'_>, name: &str, class: &str) -> Vec<Node<'a, 'a>> {
    let named = named(page, name).into_iter();
    named
        .filter(|node| node.attribute("class") == Some(class))
        .collect()
}

/// All text of a node.
fn text(node: &Node<'_, '_>) -> String {
    let texts = node.descendants().filter(Node::is_text);
    texts.filter_map(|text| text.text()).collect()
}

fn number(node: &Node<'_, '_>, attribute: &str) -> f64 {
    let value = node.attribute(attribute).expect(attribute);
    value
        .parse()
        .unwrap_or_else(|_| panic!("{attribute}={value}"))
}

/// `x y` after each letter of a path.
fn points(path: &str) -> Vec<[f64; 2]> {
    let points = path
        .split(['M', 'L', 'Z'])
        .filter(|point| !point.is_empty());
    let point = |point: &str| {
        let (x, y) = point.split_once(' ').unwrap();
        [x.parse().unwrap(), y.parse().unwrap()]
    };
    points.map(point).collect()
}

/// Would catch a page that needs another file, or that no parser but a browser's takes.
#[test]
fn the_page_is_sound_and_alone() {
    let page = report().html();
    let document = parse(&page);
    assert!(named(&document, "svg").len() >= 2);
    for word in ["http", "src=", "href", "url(", "@import", "@font-face"] {
        assert!(!page.contains(word), "{word}");
    }
    for name in ["script", "link", "img", "iframe", "object", "use", "image"] {
        assert!(named(&document, name).is_empty(), "{name}");
    }
    assert!(page.contains("prefers-color-scheme: dark"));
}

/// Would catch a tensor that is left out, a bar of another one, and bars outside of the picture or in the wrong order.
#[test]
fn every_tensor_has_its_row_and_its_bars() {
    let report = report();
    let page = report.html();
    let document = parse(&page);
    let cells = named(&document, "td");
    let rows: Vec<Vec<String>> = cells
        .chunks(7)
        .map(|row| row.iter().map(text).collect())
        .collect();
    assert_eq!(rows.len(), report.per_tensor.len());
    let bars = |stage| of_class(&document, "rect", stage);
    let stages = ["read", "convert", "place"].map(bars);
    for (k, tensor) in report.per_tensor.iter().enumerate() {
        assert_eq!(rows[k][0], tensor.name);
        assert_eq!(rows[k][1], tensor.quant.to_string());
        assert_eq!(rows[k][5], format!("{:.2}", 1e3 * tensor.seconds_convert));

        let ends = |stage: usize| {
            let bar = &stages[stage][k];
            assert!(
                text(bar).starts_with(&format!("{}: ", tensor.name)),
                "{}",
                text(bar)
            );
            let from = number(bar, "x");
            from..=from + number(bar, "width")
        };
        let [read, convert, place] = [0, 1, 2].map(ends);
        let inside: RangeInclusive<f64> = 0.0..=960.0;
        for bar in [&read, &convert, &place] {
            assert!(
                inside.contains(bar.start()) && inside.contains(bar.end()),
                "{bar:?}"
            );
        }
        assert!(read.start() <= convert.start() && convert.end() <= &(place.start() + 1.3));
    }
}

/// Would catch a picture that is scaled wrongly, and a peak that is not the report's.
#[test]
#[cfg(target_os = "linux")]
fn the_peak_of_the_picture_is_that_of_the_report() {
    let report = report();
    let peak = report.peak_host_bytes.unwrap();
    let page = report.html();
    let document = parse(&page);
    let dots = of_class(&document, "circle", "peak");
    assert_eq!(dots.len(), 1, "the CPU has no memory of its own");
    assert_eq!(dots[0].attribute("data-bytes"), Some(&*peak.to_string()));
    let curve = of_class(&document, "path", "host line")[0]
        .attribute("d")
        .unwrap();
    let points = points(curve);
    let lowest = points.iter().map(|[_, y]| *y).fold(f64::INFINITY, f64::min);
    let [cx, cy] = ["cx", "cy"].map(|at| number(&dots[0], at));
    assert_eq!(cy, lowest, "y goes down");
    assert!(points.contains(&[cx, cy]));
    // Height over the line of zero is what bytes are.
    let before = report.host_bytes.points()[0].1;
    let zero = 236.0;
    let scale = (zero - cy) / peak as f64;
    assert!((zero - points[0][1] - scale * before as f64).abs() < 0.2);
    assert!(points.is_sorted_by(|a, b| a[0] <= b[0]));
}

/// Would catch one place where a name goes out as it came in.
#[test]
fn names_of_all_characters_are_escaped() {
    let mut report = report();
    let name = "a<b> & \"c\" 'd' </td><script>alert(1)</script>";
    report.per_tensor[0].name = name.to_owned();
    report.per_tensor[1].name = "bell\u{7} and \u{fffe}".to_owned();
    report.model = name.to_owned();
    report.device = name.to_owned();
    report.per_tensor[0].error = Some(stats(20.0));
    let page = report.html();
    let document = parse(&page);
    assert!(named(&document, "script").is_empty());
    let cells: Vec<String> = named(&document, "td").iter().map(text).collect();
    assert!(cells.iter().any(|cell| cell == name));
    assert!(cells.iter().any(|cell| cell == "bell\u{fffd} and \u{fffd}"));
    assert_eq!(text(&named(&document, "h1")[0]), name);
}

fn stats(sqnr: f64) -> Stats {
    Stats {
        max_error: 0.0,
        mean_error: 0.0,
        relative_error: 0.0,
        cosine: 1.0,
        sqnr,
        compared: 1,
        saturated: 0,
        lost_sources: 0,
        lost_results: 0,
    }
}

/// Would catch errors that are drawn where none are known, dots in the wrong order, and infinite ones that break the
/// page.
#[test]
fn errors_are_drawn_where_there_are_any() {
    let mut report = report();
    let page = report.html();
    assert!(page.contains("No weight was verified"));
    assert!(of_class(&parse(&page), "circle", "error").is_empty());

    let ratios = [20.5, 31.25, f64::INFINITY, f64::NEG_INFINITY, 4.0];
    let tensors = report
        .per_tensor
        .iter_mut()
        .filter(|tensor| tensor.name.contains("layers"));
    for (tensor, ratio) in tensors.zip(ratios) {
        tensor.error = Some(stats(ratio));
    }
    let page = report.html();
    assert!(!page.contains("No weight was verified"));
    let document = parse(&page);
    let dots = of_class(&document, "circle", "error");
    let found: Vec<(f64, String)> = dots
        .iter()
        .map(|dot| (number(dot, "cx"), text(dot)))
        .collect();
    assert_eq!(found.len(), ratios.len());
    for ((x, said), ratio) in found.iter().zip(ratios) {
        assert!(said.ends_with(&format!(": {ratio:.2} dB")), "{said}");
        assert!((0.0..=960.0).contains(x), "{said} at {x}");
    }
    let x: Vec<f64> = found.iter().map(|(x, _)| *x).collect();
    assert!(
        x[3] <= x[4] && x[4] < x[0] && x[0] < x[1] && x[1] < x[2],
        "{x:?}"
    );
    let header: Vec<String> = named(&document, "th").iter().map(text).collect();
    assert_eq!(header.last().unwrap(), "SQNR dB");
}

/// Would catch a page that grows with the model, or that loses tensors when it adds them up.
#[test]
fn a_large_model_has_a_page_of_moderate_size() {
    let mut report = report();
    let tensor = report.per_tensor[3].clone();
    let of_layer = |layer: usize, k: usize| {
        let mut tensor: TensorReport = tensor.clone();
        tensor.name = format!("model.layers.{layer}.expert_{k}.weight");
        tensor.bytes_read = 1 << 20;
        tensor.error = Some(stats(20.0));
        tensor
    };
    report.per_tensor = (0..1000)
        .flat_map(|layer| (0..10).map(move |k| (layer, k)))
        .map(|(layer, k)| of_layer(layer, k))
        .collect();
    let page = report.html();
    assert!(page.len() < 2 << 20, "{} bytes", page.len());
    let document = parse(&page);
    let bars = of_class(&document, "rect", "convert").len();
    assert!((100..=128).contains(&bars), "{bars} rows");
    let cells: Vec<String> = named(&document, "td").iter().map(text).collect();
    let rows: Vec<&[String]> = cells.chunks(8).collect();
    assert_eq!(rows.len(), 1000);
    assert_eq!(rows[7][0], "model.layers.7");
    assert_eq!(rows[7][2], "10.00 MiB");
    assert!(page.contains("report.json has every tensor"));
}

/// Would catch numbers of the two files that differ, and times of another clock.
#[test]
fn the_files_say_the_same() {
    let report = report();
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("a/b");
    report.write_html(&out).unwrap();
    assert_eq!(
        fs::read_to_string(out.join("index.html")).unwrap(),
        report.html()
    );
    let json: Value = serde_json::from_slice(&fs::read(out.join("report.json")).unwrap()).unwrap();
    assert_eq!(
        json["peak_host_bytes"],
        serde_json::json!(report.peak_host_bytes)
    );
    assert_eq!(json["in_flight_bytes_max"], 256 << 20);
    assert_eq!(json["device_bytes_over_time"], serde_json::json!([]));
    let host = json["host_bytes_over_time"].as_array().unwrap();
    assert_eq!(host.len(), report.host_bytes.points().len());
    let most = host.iter().map(|point| point[1].as_u64().unwrap()).max();
    assert_eq!(most, report.peak_host_bytes);

    let seconds = json["seconds"].as_f64().unwrap();
    let tensors = json["per_tensor"].as_array().unwrap();
    assert_eq!(tensors.len(), 38);
    for tensor in tensors {
        let span = |stage: &str| {
            let [from, to] =
                [0, 1].map(|end| tensor[format!("span_{stage}")][end].as_f64().unwrap());
            let took = tensor[format!("seconds_{stage}")].as_f64().unwrap();
            assert!(0.0 <= from && to <= seconds, "{tensor}");
            // It may have waited in between.
            assert!(took <= to - from + 1e-6, "{tensor}");
            [from, to]
        };
        let [read, convert, place] = ["read", "convert", "place"].map(span);
        assert!(read[0] <= convert[0] && read[1] <= convert[1] && convert[1] <= place[0]);
    }

    fs::write(folder.path().join("file"), "").unwrap();
    let error = report.write_html(folder.path().join("file")).unwrap_err();
    assert!(
        error.to_string().contains("file: could not be written"),
        "{error}"
    );
}
