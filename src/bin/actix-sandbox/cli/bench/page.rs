//! The results as a web page: one file without scripts and external resources.

use super::{
    measure::Measured,
    plot::{self, colour, escape},
    report::Report,
    statistics::time,
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
    let cautions = report.cautions().into_iter();
    let cautions: String = cautions.map(|it| notice(&format!("{it}."))).collect();
    let conditions = report.fail_if.iter().filter(|it| it.failed);
    let conditions: String = conditions
        .map(|it| notice(&format!("{}.", it.text.replace('`', ""))))
        .collect();
    let (latencies, of) = plot::latencies(report).unwrap_or_default();
    let phases = report.phases.iter().map(|it| it.phase);
    let phases: Vec<_> = phases.map(|it| (colour(it), it.name())).collect();
    let charts = [
        (
            "Latency of each step",
            plot::distribution(histograms),
            legend(phases.iter().map(|(class, name)| (&**class, *name))),
        ),
        (
            "Sandboxes per second",
            plot::throughput(report),
            legend([("done", "completed"), ("failed", "failed"), ("started", "started")]),
        ),
        (
            "Latency per second",
            latencies,
            legend([
                ("c0", &*format!("median of {of}, by the second in which the sandbox ended")),
                ("c1", "95th percentile"),
            ]),
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
         <h1>Benchmark of {target}</h1>\n<p>{headline}.</p>\n{stopped}{conditions}{cautions}<p>{outcome}.<br>{throughput}.<br>{interactive}{connections}.</p>\n<p>{environment}.</p>\n\
         <div class=\"charts\">\n{charts}</div>\n{steps}{errors}{script}\
         <footer>actix-sandbox {version}, {at}</footer>\n</main>\n</body>\n</html>\n",
        target = escape(&report.target),
        headline = escape(&report.headline()),
        outcome = escape(&report.outcome()),
        throughput = escape(&report.throughput()),
        interactive = report
            .interactive()
            .map_or(String::new(), |it| format!("{}.<br>", escape(&it))),
        connections = escape(&report.connections()),
        environment = escape(&report.environment()),
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

/// Explains colours, which are given as the CSS class and the name of what has the colour.
fn legend<'a>(keys: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let keys = keys.into_iter().map(|(class, name)| {
        format!("<span class=\"item\"><span class=\"key {class}\"></span>{name}</span> ")
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
            .map(|(name, value)| format!("<td data-name=\"{name}\">{}</td>", time(value)));
        let (name, count) = (phase.phase.name(), phase.count);
        format!(
            "<tr><th>{name}</th><td data-name=\"count\">{count}</td>{}</tr>\n",
            cells.concat()
        )
    });
    format!(
        "<h2>Steps</h2>\n<table>\n<tr class=\"head\"><th></th><th>count</th>{}</tr>\n{}</table>\n",
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
            "<tr><th>{}</th><td data-name=\"count\">{}</td><td data-name=\"step\">{}</td>\
             <td class=\"words\">{}</td></tr>\n",
            escape(&error.kind),
            error.count,
            error.phase.name(),
            escape(&error.example)
        )
    });
    format!(
        "<h2>Errors</h2>\n<table>\n<tr class=\"head\"><th>kind</th><th>count</th><th>step</th><th class=\"words\">first error</th></tr>\n{}</table>\n",
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
