"""What is said over HTTP: whether a worker is alive and can send, numbers for a monitoring system, and the page.

health     alive and ready, in words
metrics    the numbers, for Prometheus
plain      both as answers to a path, whichever server gives them
server     which server listens; the small one for those without the extra

access     who asks, and what they may do
views      what each page shows
acts       what is done from it
preview    a message as its reader will see it
fresh      answers that many ask for, asked once
templates  `pages/`, with what they may use
site       the page's addresses, and its server
"""
