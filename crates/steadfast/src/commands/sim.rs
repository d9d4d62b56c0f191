//! `sim`: the simulated model server by itself.

use steadfast_sim::{Script, Sim};

use crate::cli::SimArgs;
use crate::exit::{Failure, Outcome, failed};
use crate::{print, signals};

/// `steadfast sim`.
pub(crate) async fn sim(args: SimArgs) -> Outcome {
    let script = match &args.script {
        None => Script::default(),
        Some(path) => {
            let shown = path.display();
            let text = std::fs::read_to_string(path)
                .map_err(|error| Failure::Usage(format!("{shown}: cannot read the script: {error}")))?;
            Script::parse(&text).map_err(|error| Failure::Usage(format!("{shown}: {error}")))?
        }
    };
    let signals = signals::listen()?;
    let server = Sim::start(args.listen, script)
        .map_err(|error| failed(&format!("cannot listen on {}", args.listen), &error))?;
    print(&format!(
        "listening on {0}\n\nUse it as a provider:\n\n[providers.opencode]\nkind = \"openai\"\nbase_url = \"{0}\"\n\n\
         What was asked: curl http://{1}/__requests\n",
        server.base_url(),
        server.addr()
    ));
    signals::first(signals).await;
    server.stop().await;
    Ok(())
}
