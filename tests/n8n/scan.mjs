// Runs n8n's own linter for community nodes over a package: `node scan.mjs SCANNER PACKAGE`. One line of JSON.
const { analyzePackage } = await import(`${process.argv[2]}/scanner/scanner.mjs`);
process.stdout.write(`${JSON.stringify(await analyzePackage(process.argv[3]))}\n`, () => process.exit(0));
