"""A library behind a web address: REST, a page, index jobs (`pip install "clipvip[search,serve]"`).

Processes that decode import from here: what stands in this file must stay light.
"""
