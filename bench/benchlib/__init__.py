"""What bench/run and bench/profile are made of. Standard library only.

  stats    medians, ratios, spreads, floors           calls nothing
  nbd      the few NBD messages that a probe needs    calls nothing
  fio      job files, running fio, reading its JSON   calls nothing
  servers  the sides: Varve and its peers             nbd, fio
  rows     rows that compare sides round by round     servers, fio, stats
  longrows rows about Varve's store over time         servers, fio, stats
  report   tables, JSON, what machine this is         stats
"""
