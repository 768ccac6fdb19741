// Holds every dashboard against Grafana's own types: `npm ci && npm test`.
//
// Each file becomes a typed constant, and each panel one with the options of its plugin. A key that
// Grafana does not know, and a value that it does not take, is an error of the compiler.
import { spawnSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";

const here = new URL(".", import.meta.url).pathname;
const boards = `${here}..`;
const out = `${here}node_modules/.check`;

const panelcfg = (folder, name) =>
  `@grafana/schema/dist/esm/raw/composable/${folder}/panelcfg/x/${name}PanelCfg_types.gen`;
const plugins = { stat: "Stat", timeseries: "TimeSeries", "state-timeline": "StateTimeline" };

const lines = [
  `import type { Dashboard, Panel, AnnotationQuery } from "@grafana/schema";`,
  ...Object.entries(plugins).map(
    ([type, name]) => `import type * as ${name} from "${panelcfg(type.replace("-", ""), name)}";`,
  ),
  // JSON has no enums: their values stand for them.
  `type Json<T> = 0 extends 1 & T ? any : T extends string ? \`\${T}\` : T extends (infer U)[] ? Json<U>[]`,
  `  : T extends object ? { [K in keyof T]: Json<T[K]> } : T;`,
  // What the Prometheus plugin adds to an annotation, and the type of any plugin does not have.
  `type Target = { refId: string; expr: string; interval?: string };`,
  `type Mark = Omit<AnnotationQuery, "target"> & { target: Target; titleFormat?: string; textFormat?: string;`,
  `  tagKeys?: string; useValueForTime?: boolean };`,
  `type Board = Omit<Dashboard, "annotations"> & { annotations: { list: Mark[] } };`,
  `type Shown = { stat: Stat.Options; timeseries: TimeSeries.Options; "state-timeline": StateTimeline.Options };`,
  `type Drawn = { stat: never; timeseries: TimeSeries.FieldConfig; "state-timeline": StateTimeline.FieldConfig };`,
];
let panels = 0;
const files = readdirSync(boards).filter((name) => name.endsWith(".json"));
for (const file of files) {
  const text = readFileSync(`${boards}/${file}`, "utf8");
  lines.push(`// ${file}`, `{ const board: Json<Board> = ${text}; void board; }`);
  const board = JSON.parse(text);
  for (const panel of board.panels.flatMap((panel) => (panel.type === "row" ? panel.panels : [panel]))) {
    if (!plugins[panel.type]) throw new Error(`${file}: ${panel.title}: no types for plugin ${panel.type}`);
    const [options, custom] = [`Json<Shown["${panel.type}"]>`, `Json<Drawn["${panel.type}"]>`];
    const type = `Omit<Json<Panel>, "options"> & { options: ${options}; fieldConfig: { defaults: { custom?: ${custom} } } }`;
    lines.push(`// ${file}: ${panel.title}`, `{ const panel: ${type} = ${JSON.stringify(panel, null, 2)}; void panel; }`);
    panels += 1;
  }
}
mkdirSync(out, { recursive: true });
writeFileSync(`${out}/boards.ts`, lines.join("\n"));
writeFileSync(
  `${out}/tsconfig.json`,
  JSON.stringify({
    compilerOptions: {
      strict: true,
      noEmit: true,
      skipLibCheck: true,
      module: "nodenext",
      moduleResolution: "nodenext",
      target: "es2022",
      types: [],
    },
    files: ["boards.ts"],
  }),
);
const tsc = spawnSync("node", [`${here}node_modules/typescript/bin/tsc`, "-p", out], { stdio: "inherit" });
if (tsc.status !== 0) {
  console.error(`the lines are those of ${out}/boards.ts`);
  process.exit(1);
}
console.log(`${files.length} dashboards, ${panels} panels: as @grafana/schema has them`);
