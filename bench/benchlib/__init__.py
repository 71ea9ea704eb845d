"""What bench/run and bench/profile are made of. Standard library only.

  stats    medians, ratios, spreads, floors           calls nothing
  nbd      the few NBD messages that a probe needs    calls nothing
  api      the control API over a kept connection     servers
  fio      job files, running fio, reading its JSON   calls nothing
  servers  the sides: Varve and its peers             nbd, fio
  rows     rows that compare sides round by round     servers, fio, stats
  longrows rows about Varve's store over time         servers, fio, stats
  versionrows   what versions cost reads and writes   all above
  versiontimes  how long versions take                versionrows, all above
  report   tables, JSON, what machine this is         stats
"""
