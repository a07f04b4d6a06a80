//! The results as a web page: one file without scripts and external resources.

use super::{
    measure::Measured,
    plot::{self, colour, escape},
    report::{Report, time},
};

const STYLE: &str = include_str!("page.css");

/// Renders the page.
pub(super) fn page(report: &Report, measured: &Measured) -> String {
    let histograms = measured.histograms().iter();
    let histograms = histograms.map(|(&phase, histogram)| (phase, histogram));
    let stopped = match (report.stopped, &report.why) {
        ("done", _) => String::new(),
        ("interrupted", _) => {
            notice("The run was interrupted. The page shows the results up to then.")
        }
        (_, why) => notice(&format!(
            "The run ended early. The page shows the results up to then. Reason: {}",
            why.as_deref().unwrap_or(report.stopped)
        )),
    };
    let caution = report.caution().map(|it| notice(&format!("{it}.")));
    let charts = [
        (
            "Latency of each step",
            plot::distribution(histograms),
            legend(report),
        ),
        (
            "Sandboxes per second",
            plot::throughput(report),
            "<p class=\"legend\"><span class=\"key done\"></span>completed <span class=\"key failed\"></span>failed</p>"
                .to_owned(),
        ),
        (
            "Steps of a sandbox, at their median latencies",
            plot::waterfall(report),
            "<p class=\"legend\">Whiskers show the 90th percentile. First output and end count from the \
             request to run the script.</p>"
                .to_owned(),
        ),
    ];
    let charts = charts.into_iter().filter(|(_, chart, _)| !chart.is_empty());
    let charts: String = charts
        .map(|(title, chart, legend)| {
            format!("<figure><h2>{title}</h2>\n{chart}{legend}</figure>\n")
        })
        .collect();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n\
         <link rel=\"icon\" href=\"data:,\">\n\
         <title>Benchmark of {target}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <h1>Benchmark of {target}</h1>\n<p>{headline}.</p>\n{stopped}{caution}<p>{outcome}.<br>{throughput}.<br>{connections}.</p>\n\
         <div class=\"charts\">\n{charts}</div>\n{steps}{errors}{script}\
         <footer>actix-sandbox {version}, {at}</footer>\n</main>\n</body>\n</html>\n",
        target = escape(&report.target),
        headline = escape(&report.headline()),
        caution = caution.unwrap_or_default(),
        outcome = escape(&report.outcome()),
        throughput = escape(&report.throughput()),
        connections = escape(&report.connections()),
        steps = steps(report),
        errors = errors(report),
        script = script(report),
        version = report.version,
        at = escape(&report.at),
    )
}

fn notice(text: &str) -> String {
    format!("<p class=\"notice\">{}</p>\n", escape(text))
}

fn legend(report: &Report) -> String {
    let keys = report.phases.iter().map(|phase| {
        let (class, name) = (colour(phase.phase), phase.phase.name());
        format!("<span class=\"key {class}\"></span>{name} ")
    });
    format!("<p class=\"legend\">{}</p>", keys.collect::<String>())
}

fn steps(report: &Report) -> String {
    let Some(first) = report.phases.first() else {
        return String::new();
    };
    let head = first.columns().map(|(name, _)| format!("<th>{name}</th>"));
    let rows = report.phases.iter().map(|phase| {
        let cells = phase
            .columns()
            .map(|(_, value)| format!("<td>{}</td>", time(value)));
        let (name, count) = (phase.phase.name(), phase.count);
        format!(
            "<tr><th>{name}</th><td>{count}</td>{}</tr>\n",
            cells.concat()
        )
    });
    format!(
        "<h2>Steps</h2>\n<div class=\"wide\"><table>\n<tr><th></th><th>count</th>{}</tr>\n{}</table></div>\n",
        head.concat(),
        rows.collect::<String>()
    )
}

fn errors(report: &Report) -> String {
    if report.errors.is_empty() {
        return String::new();
    }
    let rows = report.errors.iter().map(|error| {
        format!(
            "<tr><td>{}</td><td>{}</td><td>{}</td><td class=\"words\">{}</td></tr>\n",
            error.count,
            escape(&error.kind),
            error.phase.name(),
            escape(&error.example)
        )
    });
    format!(
        "<h2>Errors</h2>\n<div class=\"wide\"><table>\n<tr><th>count</th><th>kind</th><th>step</th><th>first error</th></tr>\n{}</table></div>\n",
        rows.collect::<String>()
    )
}

fn script(report: &Report) -> String {
    format!(
        "<h2>Script</h2>\n<p>{}</p>\n<pre>{}</pre>\n",
        escape(&report.plan.language),
        escape(&report.plan.script)
    )
}
